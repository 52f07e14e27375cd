"""DTensors in a user's own state: an average of the weights is stored and re-cut as the weights are, whether its
object has made its tensors before the load or not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from gloo_ranks import Ended, Rank, caught, run
from gloo_topologies import Live, build, meshes, topology_of, trained
from torch.distributed.tensor import DTensor, Partial

from dcp_runner.checkpoint.component import StateComponent
from dcp_runner.checkpoint.coordinator import CheckpointCoordinator
from dcp_runner.checkpoint.state.modules import unwrap
from dcp_runner.train.callbacks import Callback, Callbacks

pytestmark = pytest.mark.timeout(120)

PAIRS = [
    ("fsdp 2", "single"),
    ("fsdp 2", "tp 2"),
    ("fsdp 2", "ddp 2"),
    ("single", "fsdp 2"),
    ("tp 2", "fsdp 2"),
    ("ddp 2", "fsdp 2"),
    ("fsdp 2", "fsdp 2"),
    ("tp 2", "tp 2"),
    ("fsdp 4", "hsdp 2x2"),
    ("hsdp 2x2", "fsdp_tp 2x2"),
    ("fsdp_tp 2x2", "fsdp_tp 2x2"),
    ("fsdp_tp 2x2", "dp_tp 2x2"),
    ("dp_tp 2x2", "single"),
]
TOPOLOGIES = list(dict.fromkeys(name for pair in PAIRS for name in pair))


class Ema(Callback):
    """An average of a model's weights: `twin(weights)` is its state, and `weights(state)` the weights in it by name."""

    def __init__(self, form: Form, model: torch.nn.Module | None = None) -> None:
        self.form = form
        self.state = {} if model is None else form.twin(dict(unwrap(model).named_parameters()))

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = state


@dataclass(frozen=True)
class Form:
    """How the average is kept."""

    twin: Callable[[Mapping[str, Any]], dict[str, Any]]
    """From the weights by name to a state with copies of them."""
    weights: Callable[[dict[str, Any]], list[torch.Tensor]]
    """The copies, in the order of the weights."""


def copies(weights: Mapping[str, Any]) -> dict[str, Any]:
    return {name: 2 * weight.detach() + 1 for name, weight in weights.items()}


FORMS = {
    "by name": Form(
        lambda weights: {"shadow": copies(weights), "decay": 0.5, "since": torch.tensor(3), "seen": {(1, "a")}},
        lambda state: [*state["shadow"].values()],
    ),
    "as an averaged model": Form(
        lambda weights: {"n_averaged": torch.tensor(3)} | {f"module.{n}": t for n, t in copies(weights).items()},
        lambda state: [value for name, value in state.items() if name != "n_averaged"],
    ),
    "as a list": Form(
        lambda weights: {"collected": [*copies(weights).values()], "step": 3},
        lambda state: state["collected"],
    ),
}
WAYS = {
    "among the callbacks": lambda ema: StateComponent("callbacks", Callbacks({"other": Callback(), "ema": ema})),
    "of its own": lambda ema: StateComponent("ema", ema),
    "declared": lambda ema: StateComponent("ema", ema, "per_rank"),
}


def coordinator_of(live: Live, ema: Any, way: str, folder: Path, comm: Any) -> CheckpointCoordinator:
    components = [StateComponent("model", live.model), WAYS[way](ema)]
    return CheckpointCoordinator(components, live.topology, folder, comm=comm)


def whole(value: Any) -> Any:
    """The state with all DTensors made whole. Called by the topology's ranks."""
    full = lambda leaf: leaf.full_tensor() if isinstance(leaf, DTensor) else leaf  # noqa: E731
    return torch.utils._pytree.tree_map(full, value)


def same(one: Any, other: Any) -> bool:
    leaves, others = (torch.utils._pytree.tree_flatten(state) for state in (one, other))
    equal = (
        torch.equal(a, b) and a.dtype == b.dtype if isinstance(a, torch.Tensor) else a == b
        for a, b in zip(leaves[0], others[0], strict=True)
    )
    return leaves[1] == others[1] and all(equal)


def misplaced(live: Live, tensors: list[torch.Tensor]) -> Iterator[str]:
    """Weights whose copies are not placed as they are."""
    for (name, weight), copy in zip(unwrap(live.model).named_parameters(), tensors, strict=True):
        if isinstance(weight, DTensor) is not isinstance(copy, DTensor):
            yield f"{name} is {type(copy).__name__}"
        elif isinstance(weight, DTensor) and (weight.device_mesh, weight.placements) != (
            copy.device_mesh,
            copy.placements,
        ):
            yield f"{name} is placed as {copy.placements}"
        else:
            copy.lerp_(weight.detach(), 0.5)


def made_again(rank: Rank, mesh_of: Any, root: Path, way: str, form: Form, early: bool) -> dict[tuple[str, str], str]:
    """What is wrong after each pair's save and load; `early`: the tensors are there before the load."""
    talk = f"{root.name}"
    reference = trained()
    expected = Ema(form, reference.model)
    if rank.number == 0:
        coordinator_of(reference, expected, way, root / "source", rank.comm(f"{talk} source", 1)).save(1)
    rank.meet_again(f"{talk} source")

    def loaded(topology: str, path: Path, talk: str) -> tuple[Any, ...] | None:
        size = topology_of(topology).world_size
        if rank.number >= size:
            return None
        live = build(topology, mesh_of.get(topology), rank.number, seed=len(talk))
        ema = Ema(form, live.model if early else None)
        coordinator = coordinator_of(live, ema, way, root / topology, rank.comm(talk, size))
        coordinator.load(path)
        return live, ema, coordinator

    for name in dict.fromkeys(saved for saved, _ in pairs_of(way)):
        if name != "single" and (here := loaded(name, root / "source" / "checkpoint-1", f"{talk} save {name}")):
            here[2].save(2)
    rank.meet_again(f"{talk} saved")
    found = {}
    for saved, there in pairs_of(way):
        path = root / "source" / "checkpoint-1" if saved == "single" else root / saved / "checkpoint-2"
        if here := loaded(there, path, f"{talk} {saved} to {there}"):
            live, ema, _ = here
            wrong = [] if same(whole(ema.state), expected.state) else ["other values"]
            found[saved, there] = "; ".join([*wrong, *misplaced(live, form.weights(ema.state))])
    return found


CASES = [
    ("among the callbacks", "by name", True),
    ("among the callbacks", "by name", False),
    ("among the callbacks", "as an averaged model", False),
    ("among the callbacks", "as a list", True),  # of one without names the object must be made before the load
    ("of its own", "by name", False),
    ("declared", "by name", False),
]
"""How it is a component, how it keeps its tensors, and whether they are there before the load."""


def pairs_of(way: str) -> list[tuple[str, str]]:
    """Copies of what is cut nowhere are one a rank, where that is declared: they belong to as many ranks."""
    return [pair for pair in PAIRS if way != "declared" or pair[0] != "ddp 2"]


@pytest.fixture(scope="module")
def everywhere(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, bool], list[Ended]]:
    """How each case ended, on each rank; all in one start."""
    root = tmp_path_factory.mktemp("own")

    def body(rank: Rank) -> list[Ended]:
        with rank.process_group():
            mesh_of = meshes(TOPOLOGIES)
            return [
                caught(lambda c=case, n=number: made_again(rank, mesh_of, root / str(n), c[0], FORMS[c[1]], c[2]))
                for number, case in enumerate(CASES)
            ]

    everyone = run(body, 4, limit_s=100)
    return {case: [ended[number] for ended in everyone] for number, case in enumerate(CASES)}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_average_of_the_weights_is_recut_as_they_are(case: tuple[str, str, bool], everywhere: Any) -> None:
    for rank, ended in enumerate(everywhere[case]):
        assert not ended.error, f"rank {rank}: {ended.text}\n{ended.where}"
        here = [pair for pair in pairs_of(case[0]) if topology_of(pair[1]).world_size > rank]
        assert ended.value == dict.fromkeys(here, "")


class Box:
    """A Stateful that holds any state."""

    def __init__(self, state: Any = None) -> None:
        self.state = state

    def state_dict(self) -> Any:
        return self.state or {}

    def load_state_dict(self, state: Any) -> None:
        self.state = state


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Ended]]:
    """How some saves and loads under fsdp ended on two ranks."""
    root = tmp_path_factory.mktemp("apart")

    def body(rank: Rank) -> dict[str, Ended]:
        def coordinator(talk: str, *parts: StateComponent) -> CheckpointCoordinator:
            model = StateComponent("model", live.model)
            return CheckpointCoordinator([model, *parts], live.topology, root / talk, comm=rank.comm(talk))

        def save(talk: str, state: Any, sharing: str = "auto", **more: Any) -> Path:
            others = [StateComponent(key, Box(value), "per_rank") for key, value in more.items()]
            return coordinator(talk, StateComponent("ema", Box(state), sharing), *others).save(1)

        def again(talk: str, state: Any) -> Any:
            """Saved, and loaded into an object that holds nothing."""
            path = save(talk, state)
            box = Box()
            coordinator(f"{talk} again", StateComponent("ema", box)).load(path)
            kinds = [type(value).__name__ for value in torch.utils._pytree.tree_leaves(box.state)]
            return [*kinds, same(whole(box.state), whole(state))]

        with rank.process_group():
            live = build("fsdp 2", meshes(["fsdp 2"])["fsdp 2"], rank.number)
            weights = dict(live.model.named_parameters())
            cut, mesh = copies(weights), weights["first.weight"].device_mesh
            full = {name: weight.full_tensor().detach() for name, weight in weights.items()}
            mixed = {"shadow": cut, "calls": [1, rank.number]}
            unmade = DTensor.from_local(torch.ones(2), mesh, [Partial()], run_check=False)
            steps: dict[str, Callable[[], Any]] = {
                "mixed": lambda: save("mixed", mixed),
                "mixed, declared": lambda: save("declared", mixed, "per_rank"),
                "kept apart": lambda: save("kept apart", {"shadow": cut}, calls={"calls": [1, rank.number]}),
                "a sum": lambda: save("a sum", {"shadow": {"a": unmade}}),
                "full": lambda: again("full", {"last.weight": full["last.weight"]}),
                "cut": lambda: again("cut", {"last.weight": cut["last.weight"]}),
                "both": lambda: again("both", [{"last.weight": of["last.weight"]} for of in (cut, full)]),
            }
            return {name: caught(step) for name, step in steps.items()}

    everyone = run(body, 2, limit_s=30)
    return {name: [ended[name] for ended in everyone] for name in everyone[0]}


@pytest.mark.parametrize("name", ["mixed", "mixed, declared"])
def test_what_differs_beside_cut_tensors_is_refused_with_a_remedy(name: str, apart: dict[str, list[Ended]]) -> None:
    """It could not be re-cut; without a check it would load in this topology only."""
    assert {ended.phase for ended in apart[name]} == {"verify"}
    assert "'shadow" not in apart[name][0].text and "'calls/1' on rank 0-1" in apart[name][0].text
    assert "move it to a per_rank component of its own" in apart[name][0].text


def test_the_remedy_works(apart: dict[str, list[Ended]]) -> None:
    assert [ended.error for ended in apart["kept apart"]] == ["", ""]


def test_a_sum_that_is_not_made_is_named(apart: dict[str, list[Ended]]) -> None:
    assert {ended.phase for ended in apart["a sum"]} == {"plan"}
    assert "component 'ema' cannot be stored: shadow/a: DTensor with a Partial" in apart["a sum"][0].text


def test_whole_copies_of_cut_weights_stay_whole(apart: dict[str, list[Ended]]) -> None:
    """Their object holds nothing at the load, and what was cut comes back cut."""
    for name, kinds in (("full", ["Tensor"]), ("cut", ["DTensor"]), ("both", ["DTensor", "Tensor"])):
        for ended in apart[name]:
            assert ended.value == [*kinds, True], (name, ended.text)
