"""What a state is built from beside its tree spec: the types of enums and namedtuples come from the live state."""

from __future__ import annotations

import json
from collections import deque
from enum import Enum, Flag, IntEnum, StrEnum
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pytest
import torch
from solo import bits, round_trip

from dcp_runner import CheckpointError
from dcp_runner.checkpoint.errors import MismatchError
from dcp_runner.checkpoint.state.unflatten import unflatten


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


def is_like(one: Any, other: Any) -> bool:
    return bool(bits(one) == bits(other))


ENUMS = {
    "c": Colour.RED,
    "s": Colour.BLUE,
    "t": Colour.BOTH,
    "i": Level.HIGH,
    "w": Word.YES,
    "f": Bit.A | Bit.B,
    "in": [(Colour.RED,)],
}


class TestEnums:
    def test_the_type_is_that_of_the_live_state(self, tmp_path: Path) -> None:
        live = {
            "c": Colour.BLUE,
            "s": Colour.BOTH,
            "t": Colour.RED,
            "i": Level.LOW,
            "w": Word.YES,
            "f": Bit.A,
            "in": [(Colour.BLUE,)],
        }
        assert is_like(round_trip(tmp_path, ENUMS, live), ENUMS)

    @pytest.mark.parametrize("live", [None, {}, {name: 0 for name in ENUMS}, {"in": [(Colour.RED,), 2]}])
    def test_without_one_the_error_names_all_paths(self, live: Any, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError) as failure:
            round_trip(tmp_path, ENUMS, live)
        assert failure.value.types == {"MismatchError"}
        assert all(
            f"{path}: an enum in the checkpoint" in str(failure.value)
            for path in ("c", "s", "t", "i", "w", "f", "in/0/0")
        )

    def test_a_value_that_the_live_type_lacks_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="a: 1 in the checkpoint is not a value of Word") as failure:
            round_trip(tmp_path, {"a": Level.LOW}, {"a": Word.YES})
        assert failure.value.types == {"MismatchError"}


class TestNamedTuples:
    """A type is never found by a stored name: it is that of the live value, or a plain tuple."""

    STATE: ClassVar = {
        "best": Best(3, torch.ones(2)),
        "history": [Best(1, 0.5), Best(2, Best(3, -0.0))],
        "d": deque([Best(1, 1)]),
    }

    def test_the_type_is_that_of_the_live_state(self, tmp_path: Path) -> None:
        other = Best(0, 0)
        live = {"best": other, "history": [other, Best(0, other)], "d": deque([other])}
        assert is_like(round_trip(tmp_path, self.STATE, live), self.STATE)

    @pytest.mark.parametrize(
        "live", [None, {"best": None, "history": [], "d": deque()}, {"best": (0, 0), "d": [(1, 1)]}]
    )
    def test_without_one_they_are_tuples(self, live: Any, tmp_path: Path) -> None:
        plain = {"best": (3, torch.ones(2)), "history": [(1, 0.5), (2, (3, -0.0))], "d": deque([(1, 1)])}
        assert is_like(round_trip(tmp_path, self.STATE, live), plain)

    def test_a_live_type_of_other_fields_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(
            CheckpointError, match="best: a namedtuple of step, loss in the checkpoint, but Swapped has loss, step"
        ):
            round_trip(tmp_path, self.STATE, {"best": Swapped(0, 0)})

    def test_as_a_key_it_is_found_again(self, tmp_path: Path) -> None:
        assert round_trip(tmp_path, {Best(1, 2): 3})[Best(1, 2)] == 3

    def test_a_tuple_stays_one(self, tmp_path: Path) -> None:
        assert is_like(round_trip(tmp_path, {"a": (1, 2)}, {"a": Best(0, 0)}), {"a": (1, 2)})


@pytest.mark.parametrize(
    ("stored", "why"),
    [
        ({"$": "hologram", "v": 1}, "unknown kind 'hologram'; the checkpoint was written by a newer version"),
        ({"$": "torch", "v": ["torch.float3"]}, "the checkpoint has torch.float3, which this version of torch lacks"),
        ({"$": "device", "v": ["hologram:1"]}, "hologram"),
    ],
)
@pytest.mark.parametrize("where", ["item", "key", "member"])
def test_what_this_version_does_not_know_is_named(stored: Any, why: str, where: str) -> None:
    specs = {
        "item": {"x": stored},
        "key": {"x": {"$": "dict", "v": [[{"$": "tuple", "v": [stored]}, 1]]}},
        "member": {"x": {"$": "set", "v": [1, stored]}},
    }
    with pytest.raises(MismatchError, match=why) as failure:
        unflatten(json.loads(json.dumps(specs[where])), lambda name, live: torch.empty(0))
    assert str(failure.value).startswith("x")
