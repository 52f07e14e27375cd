"""Whatever differs between the holders of a copy stops the save on all ranks, at every level; whatever is the same never does."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gloo_ranks import Case, Ended, Rank, batch, caught, together, values, visible
from gloo_states import DTYPES, MEGABYTE, Box, bits, random_tensor, state_of
from torch import nn

from dcp_runner.checkpoint.component import StateComponent
from dcp_runner.checkpoint.coordinator import CheckpointCoordinator
from dcp_runner.checkpoint.topology import Topology

LEVELS = ("quick", "tensor", "full")
BIG = 5 * MEGABYTE // 4
"""Elements of the large tensor: two blocks of 4 MiB, the second one not full."""
ODD = 2


def base(big: int = 50) -> dict[str, Any]:
    """What every rank holds."""
    ramp = torch.arange(big, dtype=torch.float32)
    return {
        "big": ramp,
        "zeros": torch.zeros(4, 3),
        "nan": torch.tensor([math.nan, 1.0, math.inf, 2.0]),
        "none": torch.empty(2, 0),
        "step": torch.tensor(8.0),
        "count": torch.tensor(8),
        "dtypes": {str(dtype): random_tensor(dtype, 6, 1) for dtype in DTYPES},
        "optimizer": {"state": {"layer.0": {"exp_avg": torch.ones(50), "step": 3}}},
        "groups": [{"lr": 0.1, "params": [0, 1]}, {"lr": 0.01, "params": [2]}],
        "scalars": {
            "int": 8,
            "float": 8.0,
            "zero": 0.0,
            "bool": True,
            "text": "a",
            "none": None,
            "bytes": b"a",
            "tuple": (1, 2),
        },
        "array": np.arange(5),
        "large.tied": ramp,
        "a.tied": ramp,
    }


@dataclass
class Held:
    """What a rank saves: a state of its own, and torch's objects."""

    box: Box = field(default_factory=lambda: Box(base()))
    model: nn.Module = field(default_factory=lambda: network())
    optimizer: Any = None

    def __post_init__(self) -> None:
        decayed, other = list(self.model.parameters())[:2], list(self.model.parameters())[2:]
        self.optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.1}, {"params": other}])
        for number, parameter in enumerate(self.model.parameters()):
            parameter.grad = torch.full_like(parameter, 0.1 * number)
        self.optimizer.step()

    @property
    def state(self) -> dict[str, Any]:
        return self.box.state

    def components(self) -> list[StateComponent]:
        return [
            StateComponent("thing", self.box),
            StateComponent("model", self.model, "replicated"),
            StateComponent("optimizer", self.optimizer, "replicated"),
        ]


def network() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4))
    for number, parameter in enumerate(model.parameters()):
        nn.init.constant_(parameter, 1 + number)
    return model


@dataclass(frozen=True)
class Difference:
    """A change of one rank's state, and what the error says of it."""

    change: Callable[[Held], Any]
    leaf: str
    values: str = ""
    """At level full; the distance is that of the change."""
    component: str = "thing"

    @property
    def big(self) -> int:
        """Elements of the large tensor."""
        return BIG if self.leaf == "big" else 50


def put(place: int, value: float) -> Callable[[Held], Any]:
    return lambda held: held.state["big"].__setitem__(place, held.state["big"][place] + value)


def scalar(key: str, value: Any) -> Difference:
    return Difference(lambda held: held.state["scalars"].__setitem__(key, value), f"scalars/{key}")


def one_bit(tensor: torch.Tensor, place: int) -> None:
    size = tensor.element_size()
    flat = tensor.view(torch.uint8)
    flat[place * size] ^= 1


def replaced(key: str, value: Callable[[], Any], values: str = "") -> Difference:
    return Difference(lambda held: held.state.__setitem__(key, value()), key, values)


def of(count: int, total: int, first: str, distance: str) -> str:
    return f"({count} of {total} elements differ from rank 0's, the first at {first}, by at most {distance})"


def swapped(held: Held) -> None:
    held.optimizer.param_groups.reverse()


def deep(held: Held) -> None:
    held.state["optimizer"]["state"]["layer.0"]["exp_avg"][49] += 0.5


def moment(held: Held) -> None:
    held.optimizer.state[held.model[1].weight]["exp_avg_sq"][3, 4] *= 2


def same_elsewhere(held: Held) -> None:
    held.state["nan"][1] += 0.5


DIFFERENCES: dict[str, Difference] = {
    "first element": Difference(put(0, 1), "big", of(1, BIG, "(0,)", "1")),
    "middle element": Difference(put(BIG // 2, -2), "big", of(1, BIG, f"({BIG // 2},)", "2")),
    "last element": Difference(put(BIG - 1, 1), "big", of(1, BIG, f"({BIG - 1},)", "1")),
    "both blocks": Difference(
        lambda held: (put(1, 1)(held), put(BIG - 1, 4)(held)), "big", of(2, BIG, "(1,)", "4")
    ),
    "one ulp": Difference(
        lambda held: held.state["big"].__setitem__(1, torch.nextafter(torch.tensor(1.0), torch.tensor(2.0))),
        "big",
        of(1, BIG, "(1,)", "1.19209e-07"),
    ),
    "sign of zero": Difference(
        lambda held: held.state["zeros"].__setitem__((2, 1), -0.0), "zeros", of(1, 12, "(2, 1)", "0")
    ),
    "beside nan and inf": Difference(same_elsewhere, "nan", of(1, 4, "(1,)", "0.5")),
    "nan or not": Difference(lambda held: held.state["nan"].__setitem__(0, 0.0), "nan", of(1, 4, "(0,)", "inf")),
    "payload of nan": Difference(lambda held: one_bit(held.state["nan"], 0), "nan", of(1, 4, "(0,)", "inf")),
    **{
        str(dtype): Difference(lambda held, dtype=dtype: one_bit(held.state["dtypes"][str(dtype)], 3), f"dtypes/{dtype}", "(1 of 6 elements differ from rank 0's, the first at (3,), by at most ")
        for dtype in DTYPES
    },
    "0-d tensor": replaced("step", lambda: torch.tensor(9.0), of(1, 1, "()", "1")),
    "0-d tensor of ints": replaced("count", lambda: torch.tensor(5), of(1, 1, "()", "3")),
    "dtype of a 0-d tensor": replaced("step", lambda: torch.tensor(8)),
    "int or float beside a tensor": replaced("step", lambda: 8),
    "three levels deep": Difference(deep, "optimizer/state/layer.0/exp_avg", of(1, 50, "(49,)", "0.5")),
    "an optimizer's moment": Difference(
        moment, "state/1.weight/exp_avg_sq", "(1 of 20 elements differ from rank 0's, the first at (3, 4), by at most ", "optimizer"
    ),
    "an optimizer's step": Difference(
        lambda held: held.optimizer.state[held.model[0].bias]["step"].add_(1), "state/0.bias/step", of(1, 1, "()", "1"), "optimizer"
    ),
    "an optimizer's option": Difference(
        lambda held: held.optimizer.param_groups[1].__setitem__("lr", 0.5), "options/1.bias/lr", "", "optimizer"
    ),
    "order of an optimizer's groups": Difference(swapped, "options/0.weight/group", "", "optimizer"),
    "a weight": Difference(
        lambda held: held.model[0].weight.data[4].fill_(3), "0.weight", "(6 of 30 elements differ from rank 0's, the first at (4, 0), by at most 2", "model"
    ),
    "order of groups": Difference(lambda held: held.state["groups"].reverse(), "groups/0/lr"),
    "length of a list": Difference(lambda held: held.state["groups"].append({}), "groups"),
    "int": scalar("int", 9),
    "int or float": scalar("int", 8.0),
    "float or int": scalar("float", 8),
    "bool or int": scalar("bool", 1),
    "float": scalar("float", math.nextafter(8.0, 9)),
    "sign of a Python zero": scalar("zero", -0.0),
    "text": scalar("text", "b"),
    "text or bytes": scalar("text", b"a"),
    "None": scalar("none", 0),
    "tuple or list": scalar("tuple", [1, 2]),
    "kind of dict": replaced("scalars", lambda: OrderedDict(base()["scalars"])),
    "missing scalar": Difference(lambda held: held.state["scalars"].pop("int"), "scalars/int"),
    "extra scalar": scalar("another", 1),
    "missing tensor": Difference(lambda held: held.state.pop("zeros"), "zeros"),
    "extra tensor": replaced("more", lambda: torch.zeros(2)),
    "extra large tensor": replaced("more", lambda: torch.zeros(MEGABYTE)),
    "extra empty dict": replaced("more", dict),
    "dtype": replaced("zeros", lambda: torch.zeros(4, 3, dtype=torch.float64), "(torch.float64 (4, 3) here, torch.float32 (4, 3) on rank 0)"),
    "dtype of the same bytes": replaced("zeros", lambda: torch.zeros(4, 3, dtype=torch.int32), "(torch.int32 (4, 3) here, torch.float32 (4, 3) on rank 0)"),
    "shape": replaced("zeros", lambda: torch.zeros(3, 4), "(torch.float32 (3, 4) here, torch.float32 (4, 3) on rank 0)"),
    "shape of nothing": replaced("none", lambda: torch.empty(0, 2), "(torch.float32 (0, 2) here, torch.float32 (2, 0) on rank 0)"),
    "element of an array": replaced("array", lambda: np.array([0, 1, 2, 3, 5]), of(1, 5, "(4,)", "1")),
    "dtype of an array": replaced("array", lambda: np.arange(5, dtype=np.int32), "(torch.int32 (5,) here, torch.int64 (5,) on rank 0)"),
    "array or tensor": replaced("array", lambda: torch.arange(5)),
}  # fmt: skip


def reordered(state: Any) -> Any:
    return {key: reordered(state[key]) for key in reversed(state)} if type(state) is dict else state


def tensor_step(held: Held) -> None:
    held.state["scalars"] |= {"int": torch.tensor(8), "float": torch.tensor(8.0), "bool": torch.tensor(True)}
    held.state.update(step=8.0, count=8)


def other_memory(held: Held) -> None:
    held.state["zeros"] = torch.zeros(3, 8)[:, ::2].t()
    held.state["big"] = nn.Parameter(torch.arange(57, dtype=torch.float32)[:50])
    held.state["a.tied"] = held.state["large.tied"] = held.state["big"]
    held.state["dtypes"]["torch.complex64"] = random_tensor(torch.complex64, 6, 1).conj().conj_physical().conj().conj()


def pickled(held: Held) -> None:
    held.box.state = copy.deepcopy(held.state)


SAME: dict[str, Callable[[Held], Any]] = {
    "nothing": lambda held: None,
    "order of keys": lambda held: held.box.__setattr__("state", {"big": held.state["big"]} | reordered(held.state)),
    "order of tied keys": lambda held: held.box.__setattr__("state", reordered(held.state)),
    "number or tensor": tensor_step,
    "memory": other_memory,
    "a copy": pickled,
    "an optimizer that was loaded": lambda held: held.optimizer.load_state_dict(held.optimizer.state_dict()),
}


def tried(coordinator: CheckpointCoordinator, folder: Path, step: int = 1) -> tuple[Ended, list[str]]:
    """How a save ended, and what it has left in the folder."""
    ended = caught(lambda: coordinator.save(step))
    left = coordinator.comm.on_rank_0("ended", lambda: visible(folder) if folder.exists() else [])
    return ended, left


SOME = (
    "middle element",
    "torch.bfloat16",
    "three levels deep",
    "an optimizer's moment",
    "int",
    "missing tensor",
    "extra large tensor",
    "shape",
)


def level_names(level: str) -> list[str]:
    """Differences that the quick part of the tests makes at a level; the slow part makes all at every level."""
    dtypes = [name for name in DIFFERENCES if name.startswith("torch.")]
    if level != "tensor":
        return [*dict.fromkeys([*SOME, *dtypes[:: len(LEVELS)]])]
    return [name for name in DIFFERENCES if name not in dtypes or LEVELS[dtypes.index(name) % len(LEVELS)] == level]


def judge(folder: Path, level: str, size: int, odd: int, names: Iterable[str] = tuple(DIFFERENCES)) -> Case:
    """Everything at one level with one coordinator, which so is also used again after many failures."""

    def body(rank: Rank) -> dict[str, Any]:
        told: dict[str, Any] = {}
        held = Held()
        coordinator = CheckpointCoordinator(
            held.components(), Topology(size), folder, level, comm=rank.comm(str(folder), size)
        )
        for name, difference in ((name, DIFFERENCES[name]) for name in names):
            fresh = Held(Box(base(difference.big)))
            if rank.number == odd:
                difference.change(fresh)
            _take_over(held, fresh)
            told[name] = tried(coordinator, folder)
        for number, (name, change) in enumerate(SAME.items()):
            fresh = Held()
            if rank.number == odd:
                change(fresh)
            _take_over(held, fresh)
            ended, _ = tried(coordinator, folder, 10 + number)
            held.box.state = {}
            loaded = caught(lambda: coordinator.load("latest").step)
            told[name] = ended, loaded.text or loaded.value, _plain(held.state) == _plain(base())
        return told

    return Case(size, body)


def _take_over(held: Held, fresh: Held) -> None:
    """Let the coordinator's objects hold what another one's do."""
    held.box.state = fresh.state
    held.model.load_state_dict(fresh.model.state_dict())
    held.optimizer.state.clear()
    names = list(held.model.parameters())
    for number, parameter in enumerate(fresh.model.parameters()):
        held.optimizer.state[names[number]] = fresh.optimizer.state[parameter]
    places = {id(parameter): number for number, parameter in enumerate(fresh.model.parameters())}
    held.optimizer.param_groups[:] = [
        group | {"params": [names[places[id(parameter)]] for parameter in group["params"]]}
        for group in fresh.optimizer.param_groups
    ]


def _plain(state: Any) -> Any:
    """Bits without the order of keys, and numbers as tensors."""
    if isinstance(state, Mapping):
        return (type(state).__name__, {key: _plain(value) for key, value in sorted(state.items())})
    if isinstance(state, list):
        return [_plain(value) for value in state]
    return bits(torch.tensor(state) if type(state) in (int, float, bool) else state)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    root = tmp_path_factory.mktemp("verify")
    Held()  # what torch imports for it is imported once, before the forks
    cases = {level: judge(root / level, level, 3, ODD, level_names(level)) for level in LEVELS}
    cases["first of 3"] = judge(root / "first", "full", 3, 0, SOME)
    cases["tie"] = judge(root / "tie", "full", 2, 1, SOME)
    return together(cases)


@pytest.mark.parametrize(("level", "name"), [(level, name) for level in LEVELS for name in level_names(level)])
def test_a_difference_stops_the_save_on_all_ranks_and_is_named(
    level: str, name: str, judged: dict[str, list[dict[str, Any]]]
) -> None:
    found(name, level, [told[name] for told in judged[level]])


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
def test_every_difference_is_found_at_every_level(level: str, tmp_path: Path) -> None:
    (ended,) = batch({level: judge(tmp_path, level, 3, ODD)}).values()
    for name in DIFFERENCES:
        found(name, level, [told[name] for told in values(ended)])


def found(name: str, level: str, outcomes: Sequence[tuple[Ended, list[str]]]) -> None:
    """Check that a difference on the third of three ranks was found."""
    difference = DIFFERENCES[name]
    for ended, left in outcomes:
        assert ended.error == "CheckpointError", f"not found: {ended.value}"
        assert (ended.phase, ended.types, ended.culprits) == ("verify", {"ReplicaMismatchError"}, (ODD,))
        assert left == []
    (text,) = {ended.text for ended, _ in outcomes}
    assert f"component '{difference.component}', copy 'all' (ranks 0-2)" in text
    assert "rank 2 differs" in text
    assert (f"{difference.leaf!r} on rank 2" in text) == (level != "quick")
    if level == "full" and difference.values:
        assert difference.values in text


@pytest.mark.parametrize("name", SOME)
def test_the_first_rank_can_be_the_odd_one(name: str, judged: dict[str, list[dict[str, Any]]]) -> None:
    outcomes = [told[name] for told in judged["first of 3"]]
    assert all(ended.culprits == (0,) and left == [] for ended, left in outcomes)
    (text,) = {ended.text for ended, _ in outcomes}
    assert f"{DIFFERENCES[name].leaf!r} on rank 0" in text
    if "elements differ" in DIFFERENCES[name].values:
        assert DIFFERENCES[name].values.replace("rank 0's", "rank 1's") in text


@pytest.mark.parametrize("name", SOME)
def test_of_two_ranks_both_are_odd(name: str, judged: dict[str, list[dict[str, Any]]]) -> None:
    outcomes = [told[name] for told in judged["tie"]]
    assert all(ended.culprits == (0, 1) and left == [] for ended, left in outcomes)
    (text,) = {ended.text for ended, _ in outcomes}
    assert f"{DIFFERENCES[name].leaf!r} on rank 0-1" in text and "ranks 0-1 differ" in text
    assert DIFFERENCES[name].values in text


ORDER = "order of tied keys"


@pytest.mark.parametrize("name", [name for name in SAME if name != ORDER])
@pytest.mark.parametrize("level", [*LEVELS, "first of 3", "tie"])
def test_what_is_the_same_is_saved(level: str, name: str, judged: dict[str, list[dict[str, Any]]]) -> None:
    for ended, loaded, same in [told[name] for told in judged[level]]:
        assert ended.text == ""
        assert loaded == 10 + list(SAME).index(name)
        assert same


@pytest.mark.parametrize("level", LEVELS)
def test_ties_must_stand_in_the_same_order(level: str, judged: dict[str, list[dict[str, Any]]]) -> None:
    """Tied tensors are stored under the name that comes first, as Hugging Face wants it, so the holders' orders must agree."""
    for ended, *_ in [told[ORDER] for told in judged[level]]:
        assert ended.types == {"ReplicaMismatchError"}


# -- several copies, several components, several levels ----------------------------------------------------------------


def attempt(
    folder: Path,
    topology: Topology,
    states: Callable[[int], Mapping[str, Any]],
    sharing: str = "auto",
    level: str = "tensor",
    components: Mapping[str, Mapping[str, Any]] | None = None,
    step: Callable[[int], int] = lambda rank: 1,
    **more: Any,
) -> Case:
    """Save `states(rank)`, a state for each component."""

    def body(rank: Rank) -> tuple[Ended, list[str]]:
        made = [
            StateComponent(key, Box(state), **{"sharing_pattern": sharing, **(components or {}).get(key, {})})
            for key, state in states(rank.number).items()
        ]
        comm = rank.comm(str(folder), topology.world_size)
        coordinator = CheckpointCoordinator(made, topology, folder, level, comm=comm, **more)
        return tried(coordinator, folder, step(rank.number))

    return Case(topology.world_size, body)


STAGES = Topology(4, {"pp": 2, "dp": 2})
CUBE = Topology(8, {"pp": 2, "dp": 2, "tp": 2})


def staged(rank: int, per_stage: int, wrong: Mapping[int, str]) -> dict[str, Any]:
    state = state_of(rank // per_stage)
    state["nested"]["list"][2]["deep"][1, 1] += rank in wrong and wrong[rank] == "deep"
    state["step"] += rank in wrong and wrong[rank] == "step"
    return {"thing": state}


def two(rank: int, wrong: Mapping[int, Mapping[str, int]]) -> dict[str, Any]:
    states = {key: {"a": torch.zeros(3), "b": torch.zeros(3)} for key in ("one", "two", "three")}
    for key, count in wrong.get(rank, {}).items():
        states[key]["a" if count < 10 else "b"][0] = count
    return states


TWO = Topology(2)
THREE = Topology(3)
FOUR = Topology(4)
MORE: dict[str, Callable[[Path], Case]] = {
    "stage": lambda f: attempt(f, STAGES, lambda rank: staged(rank, 2, {3: "step"}), "per_group:dp"),
    "stage of four": lambda f: attempt(f, CUBE, lambda rank: staged(rank, 4, {6: "step"}), "per_group:dp+tp", "full"),
    "both stages": lambda f: attempt(
        f, CUBE, lambda rank: staged(rank, 4, {1: "deep", 6: "step"}), "per_group:dp+tp", "full"
    ),
    "wrong axis": lambda f: attempt(f, STAGES, lambda rank: staged(rank, 2, {}), "per_group:pp"),
    "two components": lambda f: attempt(
        f, THREE, lambda rank: two(rank, {1: {"one": 5}, 2: {"three": 7}}), level="full"
    ),
    "two leaves, two ranks": lambda f: attempt(
        f, FOUR, lambda rank: two(rank, {1: {"one": 5}, 0: {"one": 17}}), level="full"
    ),
    "two leaves at quick": lambda f: attempt(
        f, FOUR, lambda rank: two(rank, {1: {"one": 5}, 0: {"one": 17}}), level="quick"
    ),
    "all differ": lambda f: attempt(f, THREE, lambda rank: two(rank, {1: {"one": 5}, 2: {"one": 6}})),
    "two and two": lambda f: attempt(f, FOUR, lambda rank: two(rank, {1: {"one": 5}, 2: {"one": 5}})),
    "other kinds and one wrong": lambda f: attempt(
        f,
        THREE,
        lambda rank: {"thing": {"step": 8 if rank == 1 else torch.tensor(8), "w": torch.full((3,), rank // 2)}},
        level="quick",
    ),
    "level for one": lambda f: attempt(
        f, THREE, lambda rank: two(rank, {2: {"two": 5}}), level="quick", validation_for={"two": "full"}
    ),
    "level of the component": lambda f: attempt(
        f,
        THREE,
        lambda rank: two(rank, {2: {"two": 5}}),
        level="full",
        components={"two": {"validation_level": "quick"}},
    ),
    "none for one": lambda f: attempt(
        f, THREE, lambda rank: two(rank, {2: {"two": 5}}), validation_for={"two": "none"}
    ),
    "none but for one": lambda f: attempt(
        f, THREE, lambda rank: two(rank, {2: {"two": 5, "one": 3}}), level="none", validation_for={"one": "tensor"}
    ),
    "none": lambda f: attempt(f, THREE, lambda rank: two(rank, {2: {"two": 5}}), level="none"),
    "not to be checked": lambda f: attempt(
        f, THREE, lambda rank: two(rank, {2: {"two": 5}}), components={"two": {"validate_replication": False}}
    ),
    "none and large names": lambda f: attempt(
        f, TWO, lambda rank: {"thing": {f"w{rank}": torch.zeros(MEGABYTE)}}, level="none"
    ),
    "global": lambda f: attempt(f, THREE, lambda rank: two(rank, {2: {"two": 5}}), "global"),
    "per_rank": lambda f: attempt(f, THREE, lambda rank: two(rank, {2: {"two": 5}}), "per_rank"),
    "tied on one rank": lambda f: attempt(f, TWO, tied_on_one),
    "other components": lambda f: opened(f, lambda rank: {"a": "auto"} | ({"b": "auto"} if rank == 1 else {})),
    "other sharing": lambda f: opened(f, lambda rank: {"a": "per_rank" if rank == 2 else "replicated"}),
    "other order": lambda f: opened(f, lambda rank: dict.fromkeys("ab" if rank else "ba", "auto")),
    "other steps": lambda f: attempt(f, THREE, lambda rank: two(rank, {}), step=lambda rank: 1 + (rank == 1)),
}


def tied_on_one(rank: int) -> dict[str, Any]:
    weight = torch.zeros(MEGABYTE // 2)
    return {"thing": {"a": weight, "b": weight if rank == 0 else weight.clone()}}


def opened(folder: Path, declared: Callable[[int], Mapping[str, str]]) -> Case:
    """Make a coordinator where ranks declare different things."""

    def body(rank: Rank) -> tuple[Ended, list[str]]:
        made = [StateComponent(key, Box({"a": 1}), sharing) for key, sharing in declared(rank.number).items()]
        ended = caught(lambda: CheckpointCoordinator(made, THREE, folder, comm=rank.comm(str(folder), 3)))
        return ended, []

    return Case(3, body)


@pytest.fixture(scope="module")
def more(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Ended, list[str]]]:
    """The common outcome of each case."""
    root = tmp_path_factory.mktemp("copies")
    outcomes = {}
    for name, ended in batch({name: make(root / name) for name, make in MORE.items()}).items():
        told = values(ended)
        assert len({(one.text, str(one.value), tuple(left)) for one, left in told}) == 1, name
        outcomes[name] = told[0]
    return outcomes


def diverged(outcome: tuple[Ended, list[str]], *culprits: int) -> str:
    ended, left = outcome
    assert (ended.types, ended.culprits, left) == ({"ReplicaMismatchError"}, culprits, []), ended
    return ended.text


def saved(outcome: tuple[Ended, list[str]]) -> None:
    ended, left = outcome
    assert (ended.text, left) == ("", ["checkpoint-1", "latest"])


def test_only_the_copy_that_differs_is_named(more: dict[str, Any]) -> None:
    text = diverged(more["stage"], 2, 3)
    assert "copy 'pp-1' (ranks 2-3)" in text and "pp-0" not in text and "'step' on rank 2-3" in text
    text = diverged(more["stage of four"], 6)
    assert "copy 'pp-1' (ranks 4-7)" in text and "pp-0" not in text
    assert "'step' on rank 6 (1 of 1 elements differ from rank 4's, the first at (), by at most 1)" in text


def test_copies_that_differ_at_once_are_all_named(more: dict[str, Any]) -> None:
    text = diverged(more["both stages"], 1, 6)
    assert "copy 'pp-0' (ranks 0-3)" in text and "copy 'pp-1' (ranks 4-7)" in text
    assert (
        "'nested/list/2/deep' on rank 1 (1 of 6 elements differ from rank 0's, the first at (1, 1), by at most 1)"
        in text
    )
    assert "'step' on rank 6 (1 of 1 elements differ from rank 4's, the first at (), by at most 1)" in text


def test_a_group_along_the_wrong_axis_is_an_error(more: dict[str, Any]) -> None:
    text = diverged(more["wrong axis"], 0, 1, 2, 3)
    assert "per_group:pp" in text and "copy 'dp-0' (ranks 0,2)" in text and "copy 'dp-1' (ranks 1,3)" in text


def test_components_that_differ_at_once_are_all_named(more: dict[str, Any]) -> None:
    text = diverged(more["two components"], 1, 2)
    assert "component 'one'" in text and "component 'three'" in text and "component 'two'" not in text
    assert "'a' on rank 1 (1 of 3 elements differ from rank 0's, the first at (0,), by at most 5)" in text
    assert "'a' on rank 2 (1 of 3 elements differ from rank 0's, the first at (0,), by at most 7)" in text


def test_each_leaf_has_its_own_odd_rank(more: dict[str, Any]) -> None:
    text = diverged(more["two leaves, two ranks"], 0, 1)
    assert "'a' on rank 1 (1 of 3 elements differ from rank 0's, the first at (0,), by at most 5)" in text
    assert "'b' on rank 0 (1 of 3 elements differ from rank 1's, the first at (0,), by at most 17)" in text
    assert "ranks 0-1 differ" in diverged(more["two leaves at quick"], 0, 1)


def test_without_a_majority_all_are_odd(more: dict[str, Any]) -> None:
    assert "'a' on rank 0-2" in diverged(more["all differ"], 0, 1, 2)
    assert "'a' on rank 0-3" in diverged(more["two and two"], 0, 1, 2, 3)


def test_a_number_in_another_form_is_not_the_odd_one(more: dict[str, Any]) -> None:
    assert "rank 2 differs" in diverged(more["other kinds and one wrong"], 2)


def test_the_level_of_a_component_holds(more: dict[str, Any]) -> None:
    assert "by at most 5" in diverged(more["level for one"], 2)
    assert "'a'" not in diverged(more["level of the component"], 2)
    text = diverged(more["none but for one"], 2)
    assert "component 'one'" in text and "component 'two'" not in text


@pytest.mark.parametrize("name", ["none", "none for one", "not to be checked", "global", "per_rank"])
def test_what_is_not_to_be_equal_is_not_compared(name: str, more: dict[str, Any]) -> None:
    saved(more[name])


def test_ranks_that_would_split_a_copy_differently_never_write_it(more: dict[str, Any]) -> None:
    assert "names, shapes or parts of tensors" in diverged(more["none and large names"], 0, 1)
    assert "'b' on rank 0-1" in diverged(more["tied on one rank"], 0, 1)


@pytest.mark.parametrize(
    ("name", "culprits"), {"other components": (1,), "other sharing": (2,), "other order": (0,)}.items()
)
def test_ranks_must_declare_the_same(name: str, culprits: tuple[int, ...], more: dict[str, Any]) -> None:
    ended, _ = more[name]
    assert (ended.phase, ended.types, ended.culprits) == ("open", {"ValueError"}, culprits)
    assert f" differs on rank {culprits[0]} (rank " in ended.text


def test_ranks_must_save_the_same_step(more: dict[str, Any]) -> None:
    ended, left = more["other steps"]
    assert (ended.phase, ended.types, ended.culprits, left) == ("plan", {"ValueError"}, (1,), [])
