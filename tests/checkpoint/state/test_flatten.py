"""States of torch and of users come back bit for bit through real files, or are refused with path and type."""

from __future__ import annotations

import math
import os
import random
import struct
import tempfile
import warnings
from collections import Counter, OrderedDict, defaultdict, deque
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, Flag, IntEnum, StrEnum
from fractions import Fraction
from io import BytesIO
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from solo import Box, alone, bits, boxed, round_trip, stored_names, visible
from torch import nn

from dcp_runner import CheckpointError, StateComponent
from dcp_runner.checkpoint.state.flatten import MAX_DEPTH


class Colour(Enum):
    RED = 1
    BLUE = "blue"
    BOTH = (1, "blue")


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Word(StrEnum):
    YES = "yes"


class Bit(Flag):
    A = 1
    B = 2


class Best(NamedTuple):
    step: int
    loss: Any


class Swapped(NamedTuple):
    loss: Any
    step: int


def nan_of(payload: int) -> float:
    return float(struct.unpack(">d", payload.to_bytes(8, "big"))[0])


def ordered(**items: Any) -> OrderedDict[str, Any]:
    result = OrderedDict(items)
    result._metadata = OrderedDict({"": {"version": 2}, "0.norm": {"version": 1}})  # type: ignore[attr-defined]
    return result


def read_only(array: Any) -> Any:
    array.flags.writeable = False
    return array


TOKYO = timezone(timedelta(hours=9, microseconds=1), "Tokyo")
NEW: dict[str, Any] = {
    "complex": [1j, complex(-0.0, math.nan), complex(math.inf, nan_of(0x7FF8000000000001))],
    "decimals": [
        Decimal("1.10"),
        Decimal("-0E+3"),
        Decimal("NaN"),
        Decimal("sNaN12"),
        Decimal("-Infinity"),
        Decimal(2) ** -90,
    ],
    "fractions": [Fraction(1, 3), Fraction(-(2**70), 3)],
    "ranges": [range(3), range(0), range(10, -5, -3), range(2**70, 2**71)],
    "slices": [slice(None), slice(1, 2, 3), slice("a", None, -1.5)],
    "dates": [
        date(1, 1, 1),
        date(9999, 12, 31),
        timedelta(-3, 5, 7),
        timedelta.max,
        UTC,
        TOKYO,
        timezone(timedelta(0), "x"),
    ],
    "times": [
        time(),
        time(23, 59, 59, 999999, UTC, fold=1),
        datetime(2026, 2, 28, 1, 2, 3, 4),
        datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=TOKYO),
    ],
    "paths": [
        Path(),
        Path("/a/./b//c"),
        Path("~/é"),
        Path(os.fsdecode(b"a\xff")),
        PurePosixPath("a"),
        PureWindowsPath("C:/a"),
    ],
    "ids": [UUID(int=0), UUID("12345678123456781234567812345678")],
    "of torch": [torch.float32, torch.half, torch.strided, torch.channels_last, torch.per_tensor_affine],
    "devices": [torch.device("cpu"), torch.device("cuda:1"), torch.device("meta"), torch.device("cuda")],
    "sets": [
        set(),
        {1, "1", 1.5, None, b"", (1, ("a",))},
        {True, 2},
        frozenset({frozenset(), frozenset({1, 2})}),
        {math.nan},
    ],
    "sets of these": [{Path("a"), PurePosixPath("b"), date(1, 2, 3), torch.int8, 2**70, "\ud800", -0.0}],
    "deques": [deque(), deque([1, [2, torch.ones(2)]], 5), deque(maxlen=0), deque([deque([{1}], 1)])],
    "bytes that change": [bytearray(), bytearray(b"a\0")],
    "streams": [BytesIO(), BytesIO(bytes(range(256)) * 100), {"in": (BytesIO(b"x"),)}],
    "views": MappingProxyType({"a": torch.ones(1), 1: MappingProxyType({})}),
    "factories": [
        defaultdict(set, a={1}),
        defaultdict(tuple, a=()),
        defaultdict(deque, a=deque([1])),
        defaultdict(Counter),
    ],
    "as keys": {
        1j: 1,
        Decimal("1.5"): torch.ones(1),
        Fraction(1, 3): 3,
        range(3): 4,
        date(2026, 1, 1): torch.zeros(2),
        datetime(2026, 1, 1): 6,
        "2026-01-01": 7,
        time(1): 8,
        timedelta(1): 9,
        UTC: 10,
        Path("a/b"): torch.ones(3),
        PurePosixPath("c"): 12,
        UUID(int=3): 13,
        torch.float32: torch.ones(4),
        "torch.float32": 15,
        torch.device("cuda:1"): 16,
        frozenset({1, "a"}): torch.ones(5),
        frozenset(): 18,
        (Path("a/b"), frozenset({2, 1})): 19,
    },
}

T = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
COMPLEX = torch.tensor([1 + 2j, 3 - 4j])

STATES: dict[str, Any] = {
    "empty": {},
    "nothing": None,
    "a list as the state": [1, [2.5, []], {}],
    "a tensor as the state": torch.arange(3.0),
    "an array as the state": np.arange(3),
    "a number as the state": 7,
    "nested": {"a": [1, (2, [3, {"b": ()}])], "c": {"d": {"e": None}}},
    "bools and ints": [True, False, 0, 1, -1, 2**53, 2**53 + 1, -(2**53) - 1, 2**64, -(2**200)],
    "huge ints": {"plus": 10**5000, "minus": -(10**5000) - 1, 10**4400: "as a key"},
    "floats": [0.0, -0.0, 1.5, math.pi, 5e-324, 1.7976931348623157e308, math.inf, -math.inf, math.nan, 1.0],
    "NaN payloads": [nan_of(bits) for bits in (0x7FF8000000000001, 0xFFF8000000000000, 0x7FF0000000000001, 2**64 - 1)],
    "texts": ["", "é", "\0", "\ud800", "a\udfffb", "\U0001f600", '"\\', "a/b", "nan", "0x1", "~", "$"],
    "bytes": [b"", bytes(range(256))],
    "keys of every kind": {
        "text": 1,
        1: 2,
        "1": 3,
        None: 4,
        "None": 5,
        "null": 6,
        2: 7,
        2.5: 8,
        "2.5": 9,
        (1, "a"): 10,
        '(1, "a")': 11,
        b"b": 12,
        "b": 13,
        (): 14,
        math.inf: 15,
        -1: 16,
        ((1,), None): 17,
        2**70: 18,
        np.int64(9): 19,
    },
    "False as a key": {False: torch.zeros(1), "False": torch.ones(1), "false": torch.zeros(2)},
    "a NaN as a key": {math.nan: torch.ones(1)},
    "names that look alike": {
        "a/b": torch.tensor([1]),
        "a": {"b": torch.tensor([2]), "": torch.tensor([3])},
        "a~1b": torch.tensor([4]),
        "a~b": torch.tensor([5]),
        1: torch.tensor([6]),
        "1": torch.tensor([7]),
        "~21": torch.tensor([8]),
        '~2"a"': torch.tensor([9]),
        "/": torch.tensor([10]),
        "": {"": torch.tensor([11]), "/": torch.tensor([12])},
        "~": torch.tensor([13]),
        "~0": torch.tensor([14]),
        "$": torch.tensor([15]),
        "__metadata__": torch.tensor([16]),
        "x": {"__metadata__": torch.tensor([17])},
        "\ud800": torch.tensor([18]),
        "\udfff": torch.tensor([19]),  # noqa: F601
        "é": torch.tensor([20]),
        "e\u0301": torch.tensor([21]),
        None: torch.tensor([22]),
        "null": torch.tensor([23]),
        "0": torch.tensor([24]),
        0: torch.tensor([25]),
        "l": [torch.tensor([26])],
        "l/0": torch.tensor([27]),
        b"1": torch.tensor([28]),
        (1,): torch.tensor([29]),
        1.5: torch.tensor([30]),
        "1.5": torch.tensor([31]),
    },
    "dicts that look like tags": [
        {"$": "tensor"},
        {"$": "int", "v": "0x1"},
        {"$": "dict", "v": []},
        {"$": 1, "v": {"$": None}},
        {"v": 1},
    ],
    "numpy scalars": [
        np.bool_(True),
        np.int8(-1),
        np.uint16(7),
        np.uint64(2**64 - 1),
        np.float16(1.5),
        np.float32(-0.0),
        np.float64(math.nan),
        np.complex64(1 + 2j),
        np.complex128(1 - 2j),
        np.datetime64("2020-01-02"),
        np.timedelta64(5, "ms"),
        np.datetime64("NaT"),
    ],
    "arrays": {
        str(number): array
        for number, array in enumerate(
            [
                np.array([True, False]),
                np.arange(3, dtype=np.int8),
                np.arange(3, dtype=np.uint32),
                np.arange(3, dtype=np.uint64),
                np.arange(3, dtype=np.float16),
                np.array([math.nan, -0.0, math.inf], np.float32),
                np.arange(3, dtype=np.complex64),
                np.arange(3, dtype=np.complex128),
                np.arange(3, dtype=">i4"),
                np.arange(3, dtype=">f8"),
                np.arange(3, dtype=">c8"),
                np.array(["2020-01-01", "NaT"], "M8[s]"),
                np.array([1, 2], ">m8[us]"),
                np.array(3.5),
                np.array(2**63, np.uint64),
                np.array("2020-01-01", "M8[D]"),
                np.empty((0, 3)),
                np.empty((2, 0), ">i2"),
                np.asfortranarray(np.arange(6).reshape(2, 3)),
                np.arange(10)[::-2],
                np.arange(12).reshape(3, 4).T[1:],
                read_only(np.arange(3)),
                read_only(np.array(["2020"], "M8[Y]")),
                np.broadcast_to(np.arange(3.0), (2, 3)),
            ]
        )
    },
    "kinds of dict": {
        "ordered": ordered(b=1, a=torch.ones(2)),
        "plain ordered": OrderedDict(b=1, a=2),
        "counter": Counter({2: 1, 7: 3, "x": -1}),
        "lists": defaultdict(list, {"x": [1], 3: [torch.ones(1)]}),
        "none": defaultdict(None, a=1),
        "floats": defaultdict(float, a=1.5),
        "dicts": defaultdict(dict, {"$": {"a": 1}}),
    },
    "size": {"size": torch.Size([2, 3]), "none": torch.Size(), "tuple": (2, 3)},
    "layouts": {
        "contiguous": T,
        "transposed": T.permute(2, 0, 1),
        "strided": T[:, ::2, 1::2],
        "expanded": torch.tensor([1.0, 2.0]).expand(3, 2),
        "one element of many": T[0, 1:2, ::4],
        "one column": T[:1, :1, 1],
        "offset": T[1],
        "0-d view": T[1, 2, 3],
        "empty": T[:0],
        "0-d": torch.tensor(2.5),
        "empties": [torch.empty(0), torch.empty(2, 0, 3, dtype=torch.complex128)],
        "channels last": torch.rand(1, 2, 3, 4).to(memory_format=torch.channels_last),
        "conjugate": COMPLEX.conj(),
        "negative": COMPLEX.conj().imag,
        "one negative": COMPLEX[:1].conj().imag,
        "adjoint": torch.eye(2, dtype=torch.complex64).mH,
    },
    "parameters": {
        "p": nn.Parameter(torch.rand(2)),
        "b": nn.Buffer(torch.rand(3)),
        "grad": torch.rand(2, requires_grad=True) * 2,
    },
    "tensor bits": {
        "nan": torch.tensor([0x7FC00001, -4194303], dtype=torch.int32).view(torch.float32),
        "zeros": torch.tensor([0.0, -0.0]),
        "bfloat16": torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.bfloat16),
    },
}


def is_like(one: Any, other: Any) -> bool:
    return bool(bits(one) == bits(other))


STATES |= NEW


@pytest.mark.parametrize("name", STATES)
def test_states_come_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    assert is_like(round_trip(tmp_path, STATES[name]), STATES[name])


def test_tied_tensors_are_stored_once_and_tied_again(tmp_path: Path) -> None:
    weight = torch.arange(6.0).reshape(2, 3)
    state = {
        "a": weight,
        "b": {"c": weight.detach()},
        "p": nn.Parameter(weight),
        "t": weight.t(),
        "row": weight[0],
        "copy": weight.clone(),
    }
    found = round_trip(tmp_path, state)
    assert found["a"] is found["b"]["c"] is found["p"] and found["a"] is not found["copy"]
    assert sorted(stored_names(tmp_path / "checkpoint-1" / "box.safetensors")) == ["a", "copy", "row", "t"]
    assert is_like(found, state)


def test_the_same_memory_seen_otherwise_is_not_tied(tmp_path: Path) -> None:
    square = torch.arange(4.0).reshape(2, 2)
    state = {"a": square, "t": square.t(), "bits": square.view(torch.int32), "flat": square.view(4), "part": square[:1]}
    assert is_like(round_trip(tmp_path, state), state)


def test_empty_tensors_are_not_taken_for_tied(tmp_path: Path) -> None:
    found = round_trip(tmp_path, {"a": torch.empty(0), "b": torch.empty(0)})
    assert found["a"] is not found["b"]


def test_a_tied_model_is_tied_again_and_trains_on(tmp_path: Path) -> None:
    def build() -> nn.Module:
        model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5, bias=False))
        model[1].weight = model[0].weight
        return model

    saved, loaded = build(), build()
    alone(tmp_path, StateComponent("model", saved)).save(1)
    alone(tmp_path, StateComponent("model", loaded)).load(1)
    assert loaded[1].weight is loaded[0].weight and is_like(loaded.state_dict(), saved.state_dict())


def test_equal_sets_are_equal_bytes(tmp_path: Path) -> None:
    """The order of a set is that of its hashes and of its history, so it differs between ranks and starts."""
    one, other = (frozenset(members) for members in ([0, 8, "a"], [8, 0, "a"]))
    assert [*one] != [*other]
    found = []
    for number, members in enumerate((one, other)):
        state = {"set": set(members), "nested": {members, (members, 1)}, "key": {members: torch.ones(2)}}
        boxed(tmp_path / str(number), state)[1].save(1)
        found.append((tmp_path / str(number) / "checkpoint-1" / "box.safetensors").read_bytes())
    assert found[0] == found[1]


def test_live_states_of_torch(tmp_path: Path) -> None:
    """Schedulers with a Counter, a model's OrderedDict with metadata, the generators of Python, numpy and torch."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)
    steps = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5, 5])
    state = {
        "milestones": steps.state_dict(),
        "model": nn.BatchNorm1d(2).state_dict(),
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "pcg": np.random.default_rng(1).bit_generator.state,
        "torch": torch.get_rng_state(),
    }
    assert is_like(round_trip(tmp_path, state), state)


# -- hypothesis --------------------------------------------------------------------------------------------------------

characters = st.characters(exclude_categories=())
texts = st.text(characters, max_size=4) | st.sampled_from(
    ["", "$", "~", "~2", "__metadata__", "a/b", "0", "1", "v", "\ud800"]
)
floats = st.floats() | st.integers(0, 2**64 - 1).map(nan_of)
days = st.dates() | st.times() | st.timedeltas() | st.datetimes(timezones=st.just(UTC) | st.just(TOKYO) | st.none())
exact = st.decimals(allow_nan=False) | st.fractions() | st.uuids() | st.complex_numbers(allow_nan=False)
scalars = st.none() | st.booleans() | st.integers() | floats | texts | st.binary(max_size=4) | days | exact
hashable = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | texts
    | st.binary(max_size=3)
    | days
    | exact,
    lambda keys: st.lists(keys, max_size=2).map(tuple) | st.frozensets(keys, max_size=2),
    max_leaves=3,
)
dtypes = st.sampled_from([torch.float32, torch.bfloat16, torch.int8, torch.complex64, torch.float8_e5m2, torch.uint16])


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    dtype, shape = draw(dtypes), draw(st.lists(st.integers(0, 3), max_size=3))
    size = math.prod(shape) * torch.empty(0, dtype=dtype).element_size()
    data = torch.tensor(draw(st.lists(st.integers(0, 255), min_size=size, max_size=size)), dtype=torch.uint8)
    tensor = data.view(dtype).reshape(shape)
    return tensor.transpose(0, -1) if len(shape) > 1 and draw(st.booleans()) else tensor


def kinds_of_dict(items: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    plain = st.dictionaries(hashable, items, max_size=4)
    return plain | plain.map(OrderedDict) | plain.map(Counter) | plain.map(lambda content: defaultdict(list, content))


arrays = (
    tensors()
    .filter(lambda tensor: tensor.dtype in (torch.float32, torch.complex64, torch.uint16))
    .map(lambda tensor: tensor.numpy())
)
trees = st.recursive(
    scalars | tensors() | arrays | st.sets(hashable, max_size=3),
    lambda items: (
        st.lists(items, max_size=4)
        | st.lists(items, max_size=3).map(tuple)
        | kinds_of_dict(items)
        | st.builds(deque, st.lists(items, max_size=3), st.none() | st.integers(0, 4))
    ),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(trees)
def test_any_tree_comes_back(state: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        assert is_like(round_trip(Path(folder), state), state)


# -- what cannot be stored ---------------------------------------------------------------------------------------------


class Opaque: ...


class Pair(tuple[Any, ...]): ...


class Named(torch.Tensor): ...


def itself() -> list[Any]:
    loop: list[Any] = [1]
    loop.append({"again": loop})
    return loop


def deep(levels: int) -> Any:
    return [deep(levels - 1)] if levels else "bottom"


def deep_set(levels: int) -> Any:
    return frozenset({deep_set(levels - 1)}) if levels else "bottom"


def closed() -> BytesIO:
    stream = BytesIO()
    stream.close()
    return stream


def quantized() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)


def nested() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])


REFUSED: dict[str, tuple[Any, str]] = {
    "object": (Opaque(), "test_flatten.Opaque"),
    "set": ({1, Opaque}, "member of a set"),
    "set of enums": ({Level.LOW}, "Level.LOW"),
    "set of tensors": ({torch.ones(1)}, "tensor([1.])"),
    "frozenset": (frozenset({(Colour.RED,)}), "Colour.RED"),
    "slice": (slice(Opaque()), "builtins.slice with a value of type test_flatten.Opaque"),
    "time zone": (
        datetime(2026, 1, 1, tzinfo=ZoneInfo("UTC")),
        "datetime.datetime with a value of type zoneinfo",
    ),
    "closed": (closed(), "closed io.BytesIO"),
    "function": (len, "builtin_function_or_method"),
    "class": (Opaque, "builtins.type"),
    "result of torch": (torch.ones(1).max(0), "torch.return_types.max"),
    "tuple kind": (Pair((1,)), "test_flatten.Pair"),
    "sparse": (torch.eye(2).to_sparse(), "torch.sparse_coo"),
    "quantized": (quantized(), "torch.qint8"),
    "nested tensor": (nested(), "nested tensor"),
    "sub-byte": (torch.empty(2, dtype=torch.uint4), "torch.uint4"),
    "sub-byte signed": (torch.empty(2, dtype=torch.int3), "torch.int3"),
    "opaque bits": (torch.empty(2, dtype=torch.bits8), "torch.bits8"),
    "meta": (torch.empty(2, device="meta"), "meta device"),
    "tensor kind": (torch.ones(2).as_subclass(Named), "test_flatten.Named"),
    "loop": (itself(), "contains itself"),
    "factory": (defaultdict(lambda: 1), "defaultdict of <function"),
    "own factory": (defaultdict(Opaque), "defaultdict of <class 'test_flatten.Opaque'>"),
    "longdouble": (np.longdouble(1), "float128" if np.longdouble(0).itemsize == 16 else "float96"),
    "longdouble array": (np.zeros(1, np.longdouble), "numpy array of dtype"),
    "clongdouble": (np.clongdouble(1), "numpy scalar of dtype"),
    "objects": (np.array([None]), "numpy array of dtype object"),
    "records": (np.zeros(1, [("a", "i4")]), "numpy array of dtype"),
    "texts": (np.array(["a"]), "numpy array of dtype <U1"),
    "masked": (np.ma.array([1]), "MaskedArray"),
    "numpy text": (np.str_("a"), "numpy scalar of dtype"),
    "an enum as a key": ({Colour.RED: 1}, "Colour.RED"),
    "an enum in a key": ({(1, frozenset({Colour.RED})): 1}, "Colour.RED"),
    "a stream as a key": ({BytesIO(): 1}, "BytesIO"),
    "deep sets": (deep_set(2 * MAX_DEPTH), "member of a set"),
    "an enum of an object": (Enum("Odd", {"A": Opaque()}).A, "Opaque"),  # type: ignore[attr-defined]
    "two NaN keys": ({nan_of(2**64 - 1): 1, nan_of(2**64 - 1): 2}, "NaN"),
    "deep": (deep(2 * MAX_DEPTH), f"more than {MAX_DEPTH} levels"),
}


def test_what_cannot_be_stored_is_refused_all_at_once_and_leaves_nothing(tmp_path: Path) -> None:
    state = {
        "fine": torch.ones(2),
        **{name: value for name, (value, _) in REFUSED.items()},
        "in": {"a": [0, {"b": Opaque()}]},
    }
    coordinator = alone(tmp_path, StateComponent("one", Box(state)), StateComponent("two", Box({"lock": Opaque()})))
    with pytest.raises(CheckpointError) as failure:
        coordinator.save(1)
    assert failure.value.types == {"UnsupportedStateError"} and failure.value.phase == "plan"
    lines = str(failure.value).replace("cannot be stored: ", "; ").split("; ")
    for name, (_, why) in REFUSED.items():
        assert any(line.startswith((f"{name}:", f"{name}/")) and why in line for line in lines), (name, why)
    assert "in/a/1/b: type test_flatten.Opaque" in str(failure.value) and "component 'two'" in str(failure.value)
    assert "fine" not in str(failure.value)
    assert visible(tmp_path) == []


@pytest.mark.parametrize("name", REFUSED)
def test_each_of_them_alone_is_refused(name: str, tmp_path: Path) -> None:
    _, coordinator = boxed(tmp_path, {"x": REFUSED[name][0]})
    with pytest.raises(CheckpointError) as failure:
        coordinator.save(1)
    assert failure.value.types == {"UnsupportedStateError"} and REFUSED[name][1] in str(failure.value)
    assert visible(tmp_path) == []


def test_a_state_as_deep_as_allowed_comes_back(tmp_path: Path) -> None:
    assert round_trip(tmp_path, deep(MAX_DEPTH)) == deep(MAX_DEPTH)
