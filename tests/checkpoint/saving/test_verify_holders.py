"""The comparison of holders finds every difference, flags nothing that is identical, and blames the right ranks."""

from __future__ import annotations

import math
import random
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dcp_runner.checkpoint.digest import BLOCK, digest_tensor
from dcp_runner.checkpoint.files.tensor_file import BYTES_ONLY, CODES
from dcp_runner.checkpoint.saving.verify_holders import differing_leaves
from dcp_runner.checkpoint.state.fingerprints import LeafFingerprint, combined_digest, equivalent, fingerprints
from dcp_runner.checkpoint.state.flatten import flatten
from dcp_runner.checkpoint.state.modules import ModelState
from dcp_runner.checkpoint.state.optim.optimizers import OptimizerState
from dcp_runner.checkpoint.topology import Topology


def table(state: Any) -> dict[str, LeafFingerprint]:
    flat = flatten(state)
    return fingerprints(flat, {name: digest_tensor(tensor) for name, tensor in flat.tensors.items()})


def differing(one: Any, other: Any) -> list[str]:
    """Paths at which a difference is seen, from both sides; the first glance (one digest for all) must agree."""
    tables = table(one), table(other)
    found = differing_leaves(dict(enumerate(tables)))
    assert found == differing_leaves(dict(enumerate(reversed(tables)))) and all(odd == (0, 1) for odd in found.values())
    if found:
        assert combined_digest(tables[0]) != combined_digest(tables[1]), (
            "a difference that the first glance does not see would never be looked at"
        )
    return list(found)


def changed(tensor: torch.Tensor, place: int, value: float) -> torch.Tensor:
    result = tensor.clone()
    result.view(-1)[place] = value
    return result


ONES = torch.ones(1000)
BIG = torch.zeros(BLOCK // 4 * 2 + 5)
NAN = torch.tensor([math.nan])


def next_up(tensor: torch.Tensor) -> torch.Tensor:
    return torch.nextafter(tensor, torch.tensor(math.inf, dtype=tensor.dtype))


class Colour(Enum):
    RED = 1
    BLUE = 2


DIFFERENT: dict[str, tuple[Any, Any]] = {
    "the first element": (ONES, changed(ONES, 0, 2)),
    "a middle element": (ONES, changed(ONES, 500, 2)),
    "the last element": (ONES, changed(ONES, -1, 2)),
    "the last element of the last block": (BIG, changed(BIG, -1, 1e-45)),
    "an element of a middle block": (BIG, changed(BIG, BLOCK // 4 + 1, 1e-45)),
    "two elements swapped": (torch.arange(5), torch.tensor([0, 2, 1, 3, 4])),
    "one ulp": (ONES, torch.cat([ONES[:-1], next_up(ONES[-1:])])),
    "one ulp of a double": (ONES.double(), torch.cat([ONES[:-1].double(), next_up(ONES[-1:].double())])),
    "the sign of a zero": (torch.zeros(3), torch.tensor([0.0, 0.0, -0.0])),
    "the sign of a 0-d zero": (torch.tensor(0.0), torch.tensor(-0.0)),
    "the payload of a NaN": (
        torch.tensor([0x7FC00000], dtype=torch.int32).view(torch.float32),
        torch.tensor([0x7FC00001], dtype=torch.int32).view(torch.float32),
    ),
    "float and int bits": (torch.zeros(3), torch.zeros(3, dtype=torch.int32)),
    "half and bfloat16 bits": (torch.zeros(3, dtype=torch.float16), torch.zeros(3, dtype=torch.bfloat16)),
    "bool and uint8 bits": (torch.ones(3, dtype=torch.bool), torch.ones(3, dtype=torch.uint8)),
    "two kinds of fp8 bits": (torch.zeros(3, dtype=torch.float8_e5m2), torch.zeros(3, dtype=torch.float8_e4m3fn)),
    "shape": (torch.zeros(2, 3), torch.zeros(3, 2)),
    "one more axis": (torch.zeros(3), torch.zeros(1, 3)),
    "0-d and one element": (torch.tensor(1.0), torch.tensor([1.0])),
    "shapes of nothing": (torch.empty(0, 2), torch.empty(2, 0)),
    "dtypes of nothing": (torch.empty(0), torch.empty(0, dtype=torch.int8)),
    "transposed": (torch.arange(4).reshape(2, 2), torch.arange(4).reshape(2, 2).t()),
    "conjugated": (torch.tensor([1 + 2j]), torch.tensor([1 + 2j]).conj()),
    "a tensor and nothing": (torch.zeros(1), None),
    "a tensor and a list": (torch.zeros(1), [0.0]),
    "a tensor and an array": (torch.zeros(1), np.zeros(1, np.float32)),
    "an array's values": (np.arange(3), np.array([0, 1, 3])),
    "an array's byte order": (np.zeros(1, "<f4"), np.zeros(1, ">f4")),
    "an array's unit": (np.zeros(1, "M8[s]"), np.zeros(1, "M8[ms]")),
    "an array of dates and of ints": (np.zeros(1, "M8[s]"), np.zeros(1, "i8")),
    "numpy's scalars": (np.float32(1), np.float32(2)),
    "kinds of numpy's scalars": (np.float32(1), np.float64(1)),
    "a numpy scalar and a number": (np.float64(1), 1.0),
    "ints": (1, 2),
    "huge ints": (10**5000, 10**5000 + 1),
    "ints beyond doubles": (2**53 + 1, 2**53 + 2),
    "floats": (0.1, 0.1 + 2**-56),
    "zeros": (0.0, -0.0),
    "infinities": (math.inf, -math.inf),
    "int and float": (8, 8.0),
    "int and bool": (1, True),
    "float and bool": (0.0, False),
    "zero and nothing": (0, None),
    "false and nothing": (False, None),
    "text and int": ("1", 1),
    "text and bytes": ("1", b"1"),
    "texts": ("a", "b"),
    "texts with surrogates": ("\ud800", "\ud801"),
    "composed and decomposed": ("é", "e\u0301"),
    "enums": (Colour.RED, Colour.BLUE),
    "an enum and its value": (Colour.RED, 1),
    "list and tuple": ([1, 2], (1, 2)),
    "tuple and size": (torch.Size([1, 2]), (1, 2)),
    "order of a list": ([1, 2], [2, 1]),
    "length of a list": ([1, 2], [1, 2, 3]),
    "empty list and tuple": ([], ()),
    "empty list and dict": ([], {}),
    "empty list and nothing": ([], None),
    "a list and a dict by number": ([5], {0: 5}),
    "a list and a dict by text": ([5], {"0": 5}),
    "nested empties": ([[], [[]]], [[[]], []]),
    "kinds of dict": ({"a": 1}, OrderedDict(a=1)),
    "kinds of counting": (Counter(a=1), {"a": 1}),
    "a missing key": ({"a": 1, "b": 2}, {"a": 1}),
    "a missing key with nothing": ({"a": 1, "b": None}, {"a": 1}),
    "a missing key with an empty dict": ({"a": 1, "b": {}}, {"a": 1}),
    "another key": ({"a": torch.zeros(2)}, {"b": torch.zeros(2)}),
    "kinds of keys": ({1: 5}, {"1": 5}),
    "nested and slash": ({"a": {"b": 1}}, {"a/b": 1}),
    "swapped values": ({"a": torch.zeros(2), "b": torch.ones(2)}, {"a": torch.ones(2), "b": torch.zeros(2)}),
    "three levels deep": ({"a": [{"b": (1, [2, {"c": 3}])}]}, {"a": [{"b": (1, [2, {"c": 4}])}]}),
    "a tensor three levels deep": ({"a": [{"b": (1, [ONES])}]}, {"a": [{"b": (1, [changed(ONES, 999, 0)])}]}),
    "tied and not": ({"a": ONES, "b": ONES}, {"a": ONES, "b": ONES.clone()}),
    "a float and a 0-d int": (8.0, torch.tensor(8)),
    "an int and a 0-d float": (8, torch.tensor(8.0)),
    "an int and a 0-d bool": (1, torch.tensor(True)),
    "a bool and a 0-d int": (True, torch.tensor(1)),
    "a float that a 0-d float cannot hold": (0.1, torch.tensor(0.1)),
    "another value in a 0-d tensor": (8.0, torch.tensor(9.0)),
    "a number and one element": (8.0, torch.tensor([8.0])),
    "0-d floats of two widths": (torch.tensor(8.0), torch.tensor(8.0, dtype=torch.float64)),
    "0-d ints of two widths": (torch.tensor(8), torch.tensor(8, dtype=torch.int32)),
    "signs of zero across": (-0.0, torch.tensor(0.0)),
    "a number and a 0-d array": (8.0, np.array(8.0)),
    "metadata of a model": (nn.BatchNorm1d(1).state_dict(), OrderedDict(nn.BatchNorm1d(1).state_dict())),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_every_difference_is_found(name: str) -> None:
    one, other = DIFFERENT[name]
    assert differing({"deep": [one]}, {"deep": [other]})
    assert not differing({"deep": [one]}, {"deep": [one]}) and not differing({"deep": [other]}, {"deep": [other]})


@pytest.mark.parametrize("name", [*CODES, *BYTES_ONLY])
def test_every_dtype_is_compared_to_its_last_bit(name: str) -> None:
    dtype = getattr(torch, name)
    data = torch.zeros(48, dtype=torch.uint8)
    for place in range(16, 48) if dtype is torch.bool else range(32):
        other = data.clone()
        other[place] = 1
        assert differing([data.view(dtype)], [other.view(dtype)]) == ["0"]
    assert not differing([data.view(dtype)], [data.clone().view(dtype)])


def shuffled(state: Mapping[Any, Any]) -> dict[Any, Any]:
    keys = list(state)
    random.Random(3).shuffle(keys)
    return {key: shuffled(state[key]) if isinstance(state[key], Mapping) else state[key] for key in keys}


MANY = {str(number): {number: torch.full((2,), float(number)), "x": number} for number in range(9)}

IDENTICAL: dict[str, tuple[Any, Any]] = {
    "NaN": (math.nan, float("nan")),
    "NaN in a tensor": (NAN, NAN.clone()),
    "NaN in every fp8": (
        torch.full((2,), 255, dtype=torch.uint8).view(torch.float8_e4m3fn),
        torch.full((2,), 255, dtype=torch.uint8).view(torch.float8_e4m3fn),
    ),
    "order of keys": (MANY, shuffled(MANY)),
    "layout": (torch.arange(6).reshape(2, 3), torch.arange(6).reshape(2, 3).t().contiguous().t()),
    "stride": (torch.arange(10)[::2], torch.arange(0, 10, 2)),
    "channels last": (
        torch.arange(24.0).view(1, 2, 3, 4),
        torch.arange(24.0).view(1, 2, 3, 4).to(memory_format=torch.channels_last),
    ),
    "expanded": (torch.ones(1).expand(3), torch.ones(3)),
    "a part and a whole": (torch.arange(9)[3:6], torch.tensor([3, 4, 5])),
    "one element of many": (torch.arange(9)[4:5], torch.tensor([4])),
    "conjugated twice": (torch.tensor([1 + 2j]).conj(), torch.tensor([1 - 2j])),
    "negative view": (torch.tensor([1 + 2j]).conj().imag, torch.tensor([-2.0])),
    "layout of an array": (np.asfortranarray(np.arange(6).reshape(2, 3)), np.arange(6).reshape(2, 3)),
    "parameter and tensor": (nn.Parameter(torch.ones(2)), torch.ones(2)),
    "gradient or not": (torch.ones(2, requires_grad=True), torch.ones(2)),
    "zero and zero": (0.0, 0 * 1.0),
    "a float and a 0-d float": (8.0, torch.tensor(8.0)),
    "a float and a 0-d double": (0.1, torch.tensor(0.1, dtype=torch.float64)),
    "a float and a 0-d bfloat16": (8.0, torch.tensor(8.0, dtype=torch.bfloat16)),
    "a float and a 0-d fp8": (8.0, torch.tensor(8.0).to(torch.float8_e5m2)),
    "an int and a 0-d int": (8, torch.tensor(8)),
    "an int and a 0-d byte": (8, torch.tensor(8, dtype=torch.uint8)),
    "an int beyond doubles": (2**60 + 1, torch.tensor(2**60 + 1)),
    "a bool and a 0-d bool": (True, torch.tensor(True)),
    "NaN across": (math.nan, torch.tensor(math.nan)),
    "infinity across": (-math.inf, torch.tensor(-math.inf)),
    "a negative zero across": (-0.0, torch.tensor(-0.0)),
}


@pytest.mark.parametrize("name", IDENTICAL)
def test_nothing_identical_is_flagged(name: str) -> None:
    one, other = IDENTICAL[name]
    assert differing({"deep": [one]}, {"deep": [other]}) == []


@given(st.integers() | st.floats() | st.booleans(), st.integers() | st.floats() | st.booleans())
def test_numbers_are_the_same_only_with_the_same_kind_and_value(one: Any, other: Any) -> None:
    alike = type(one) is type(other) and (
        (one == other and math.copysign(1, one) == math.copysign(1, other)) or one is other
    )
    if not (one != one or other != other):
        assert equivalent(table(one)["~"], table(other)["~"]) is alike


# -- the optimizer -----------------------------------------------------------------------------------------------------


def trained() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    groups = [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[1].parameters(), "lr": 0.2}]
    optimizer = torch.optim.AdamW(groups, betas=(0.8, 0.9))
    model(torch.ones(5, 3)).sum().backward()
    optimizer.step()
    return model, optimizer


def optimizer_state(change: Callable[[Any, nn.Module], object] | None = None) -> Any:
    model, optimizer = trained()
    if change:
        change(optimizer, model)
    return OptimizerState(optimizer, [ModelState(model, "model", Topology(1))]).state_dict()


def set_in_state(name: str, value: Any) -> Callable[[Any, nn.Module], object]:
    def change(optimizer: Any, model: nn.Module) -> None:
        optimizer.state[model[1].weight][name] = value(optimizer.state[model[1].weight][name])

    return change


CHANGES: dict[str, tuple[Callable[[Any, nn.Module], object] | None, str]] = {
    "one ulp of one moment": (
        set_in_state("exp_avg_sq", lambda t: torch.cat([t.view(-1)[:-1], next_up(t.view(-1)[-1:])]).view(t.shape)),
        "state/1.weight/exp_avg_sq",
    ),
    "the sign of a moment": (set_in_state("exp_avg", lambda t: -t), "state/1.weight/exp_avg"),
    "a step": (set_in_state("step", lambda t: t + 1), "state/1.weight/step"),
    "the kind of a step": (set_in_state("step", lambda t: 1), "state/1.weight/step"),
    "a state that is not there": (lambda optimizer, model: optimizer.state.pop(model[1].weight), "state/1.weight"),
    "the learning rate of one group": (
        lambda optimizer, _: optimizer.param_groups[1].update(lr=0.2 + 1e-16),
        "options/1.weight/lr",
    ),
    "a beta": (lambda optimizer, _: optimizer.param_groups[0].update(betas=(0.8, 0.91)), "options/0.weight/betas/1"),
    "betas as a list": (
        lambda optimizer, _: optimizer.param_groups[0].update(betas=[0.8, 0.9]),
        "options/0.weight/betas",
    ),
    "the order of the groups": (lambda optimizer, _: optimizer.param_groups.reverse(), "options/0.weight/group"),
    "an option more": (lambda optimizer, _: optimizer.param_groups[0].update(extra=None), "options/0.weight/extra"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_an_optimizer_is_compared_at_all_depths(name: str) -> None:
    change, path = CHANGES[name]
    assert path in differing(optimizer_state(), optimizer_state(change))


def test_equal_optimizers_are_equal_also_with_a_python_step() -> None:
    assert differing(optimizer_state(), optimizer_state()) == []
    assert differing(optimizer_state(), optimizer_state(set_in_state("step", lambda step: step.item()))) == []


# -- who is to blame ---------------------------------------------------------------------------------------------------


def test_each_path_has_its_own_odd_ones() -> None:
    states = {4: {"w": 1, "b": 1}, 5: {"w": 1, "b": 2}, 6: {"w": 3, "b": 1}, 9: {"w": 1, "b": 1, "c": 1}}
    found = differing_leaves({rank: table(state) for rank, state in states.items()})
    assert found == {"b": (5,), "c": (9,), "w": (6,)}


def test_a_python_step_is_with_the_majority_of_tensor_steps() -> None:
    states: dict[int, Any] = {0: torch.tensor(8.0), 1: 8.0, 2: torch.tensor(9.0)}
    assert differing_leaves({rank: table({"step": step}) for rank, step in states.items()}) == {"step": (2,)}
