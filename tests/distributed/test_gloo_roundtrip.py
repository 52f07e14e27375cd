"""Every sharing pattern gives back, on every rank, the bits that it promises; on real ranks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch._dynamo  # which optimizers import when they step; once here instead of on every rank
from gloo_ranks import Case, Ended, Rank, batch, caught, run, values
from gloo_states import MEGABYTE, Box, bits, state_of
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dcp_runner.checkpoint.component import StateComponent
from dcp_runner.checkpoint.coordinator import CheckpointCoordinator
from dcp_runner.checkpoint.state.rng import RngState
from dcp_runner.checkpoint.topology import Topology

STAGES = {"pp": 2, "dp": 2}
CUBE = {"pp": 2, "dp": 2, "tp": 2}
LAYOUTS = {
    "1 rank": Topology(1),
    "2 ranks": Topology(2),
    "2x2": Topology(4, STAGES),
    "2x2x2": Topology(8, CUBE),
    "nodes of 3 and 5": Topology(8, None, [[0, 1, 2], [3, 4, 5, 6, 7]]),
    "nodes of 1, 2 and 1": Topology(4, None, [[0], [1, 2], [3]]),
}
MORE_LAYOUTS = {
    "4 ranks": Topology(4),
    "8 ranks": Topology(8),
    "2x4": Topology(8, {"pp": 2, "dp": 4}),
    "2 nodes": Topology(8, None, [[0, 1, 2, 3], [4, 5, 6, 7]]),
    "dealt out to 2 nodes": Topology(4, None, [[0, 2], [1, 3]]),
    "2x2x2 on 2 nodes": Topology(8, CUBE, [[0, 1, 2, 3, 4, 5], [6, 7]]),
}
FIRST_WINS = ("global", "per_node")


def sharings(topology: Topology) -> list[str]:
    """Every pattern, PER_GROUP along every axis and combination of axes."""
    axes = list(topology.mesh)
    subsets = [subset for count in range(1, len(axes) + 1) for subset in combinations(axes, count)]
    return ["global", "replicated", "per_rank", "per_node", *("per_group:" + "+".join(subset) for subset in subsets)]


def key_of(sharing: str) -> str:
    return sharing.replace(":", ".").replace("+", ".")


def companions(sharing: str, topology: Topology, rank: int) -> list[int]:
    """The ranks that share a copy with this one, worked out without the code under test."""
    everyone = range(topology.world_size)
    pattern, _, axes = sharing.partition(":")
    if pattern in ("global", "replicated"):
        return list(everyone)
    if pattern == "per_rank":
        return [rank]
    if pattern == "per_node":
        return next(sorted(node) for node in topology.nodes or () if rank in node)
    fixed = [number for number, name in enumerate(topology.mesh) if name not in axes.split("+")]
    places = np.stack(np.unravel_index(np.arange(topology.world_size), tuple(topology.mesh.values())), 1)[:, fixed]
    return [other for other in everyone if (places[other] == places[rank]).all()]


def size_of(sharing: str) -> int:
    """Bytes of a copy's large tensors: so many that the holders share out the writing."""
    return {"replicated": 4, "per_rank": 0, "global": 2, "per_node": 0}.get(sharing, 2) * MEGABYTE


def held(sharing: str, topology: Topology, rank: int) -> dict[str, Any]:
    """What a rank holds: the same as its companions where that is promised, else its own."""
    first = rank if sharing in FIRST_WINS else companions(sharing, topology, rank)[0]
    return state_of(1000 * (1 + sharings(topology).index(sharing)) + first, size_of(sharing))


def expected(sharing: str, topology: Topology, rank: int) -> dict[str, Any]:
    """What it gets back: the first holder's."""
    return held(sharing, topology, companions(sharing, topology, rank)[0])


def there_and_back(topology: Topology, folder: Path) -> Case:
    def body(rank: Rank) -> list[str]:
        boxes = {sharing: Box(held(sharing, topology, rank.number)) for sharing in sharings(topology)}
        components = [StateComponent(key_of(sharing), box, sharing) for sharing, box in boxes.items()]
        comm = rank.comm(str(folder), topology.world_size)
        coordinator = CheckpointCoordinator(components, topology, folder, comm=comm)
        path = coordinator.save(7, {"eval_loss": 0.5})
        for box in boxes.values():
            box.state = {}
        report = coordinator.load("latest")
        assert report.path == path == coordinator.latest()
        assert [row.action for row in report.rows] == ["loaded"] * len(boxes)
        problems = [
            sharing
            for sharing, box in boxes.items()
            if bits(box.state) != bits(expected(sharing, topology, rank.number))
        ]
        manifest = coordinator.verify(path)
        for sharing in boxes:
            problems += _who_wrote(sharing, topology, manifest.components[key_of(sharing)])
        return problems

    return Case(topology.world_size, body)


def _who_wrote(sharing: str, topology: Topology, record: Any) -> list[str]:
    groups = {tuple(companions(sharing, topology, rank)) for rank in range(topology.world_size)}
    problems = []
    if {copy.holders for copy in record.copies.values()} != groups:
        problems.append(f"{sharing}: copies {record.copies}")
    for copy in record.copies.values():
        parts = 1 if sharing in FIRST_WINS else max(1, min(len(copy.holders), size_of(sharing) // MEGABYTE))
        if len(set(copy.writers)) != parts or len(copy.files) != parts or not set(copy.writers) <= set(copy.holders):
            problems.append(f"{sharing}: written by {copy.writers} into {copy.files}, expected {parts} parts")
        if sharing in FIRST_WINS and copy.writers != copy.holders[:1]:
            problems.append(f"{sharing}: written by {copy.writers}")
    return problems


def give_back(layouts: Mapping[str, Topology], root: Path) -> dict[str, list[Ended]]:
    return batch({name: there_and_back(topology, root / name) for name, topology in layouts.items()})


@pytest.fixture(scope="module")
def returned(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Ended]]:
    return give_back(LAYOUTS, tmp_path_factory.mktemp("roundtrip"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_pattern_gives_back_the_bits_it_promises(layout: str, returned: dict[str, list[Ended]]) -> None:
    assert values(returned[layout]) == [[]] * LAYOUTS[layout].world_size


@pytest.mark.slow
def test_every_pattern_does_so_in_other_layouts(tmp_path: Path) -> None:
    for layout, ended in give_back(MORE_LAYOUTS, tmp_path).items():
        assert values(ended) == [[]] * MORE_LAYOUTS[layout].world_size


# -- another number of ranks -------------------------------------------------------------------------------------------


def moved(saved: Topology, loaded: Topology, sharing: str, folder: Path, policy: Any = "error") -> Case:
    """Save under one topology and load under another: the bits' seed, or how the load ended."""
    size = max(saved.world_size, loaded.world_size)

    def body(rank: Rank) -> Any:
        seed = 10 * (1 + companions(sharing, saved, rank.number)[0]) if rank.number < saved.world_size else 0
        together = rank.comm(f"{folder}/all", size)
        if rank.number < saved.world_size:
            box = Box(state_of(seed, LARGE))
            components = [StateComponent("thing", box, sharing, on_missing_copy=policy)]
            comm = rank.comm(f"{folder}/save", saved.world_size)
            CheckpointCoordinator(components, saved, folder, comm=comm).save(3)
        together.agree("saved", lambda: None)
        if rank.number >= loaded.world_size:
            return None
        box = Box(state_of(1, LARGE))
        components = [StateComponent("thing", box, sharing, on_missing_copy=policy)]
        comm = rank.comm(f"{folder}/load", loaded.world_size)
        coordinator = CheckpointCoordinator(components, loaded, folder, comm=comm)
        ended = caught(lambda: coordinator.load("latest").rows[0].action)
        return ended, seed_of(box.state), box.loads, box.fresh

    return Case(size, body)


LARGE = 2 * MEGABYTE


def seed_of(state: dict[str, Any]) -> int:
    """What a state was made from. Fails where it is not bit for bit what this seed makes."""
    (seed, *_) = state["tuple"]
    assert bits(state) == bits(state_of(seed, LARGE))
    return int(seed)


def nodes(*counts: int) -> Topology:
    edges = [sum(counts[:number]) for number in range(len(counts) + 1)]
    return Topology(sum(counts), None, [list(range(low, high)) for low, high in zip(edges, edges[1:], strict=False)])


WIDER: dict[str, tuple[Topology, Topology, str, Any]] = {
    f"{sharing} dp=2 to dp={dp}": (Topology(2), Topology(dp), sharing, lambda rank: 10)
    for sharing in ("global", "replicated", "per_group:dp")
    for dp in (1, 4, 8)
}
WIDER |= {
    f"per_group:dp pp=2 dp=2 to pp=2 dp={dp}": (
        Topology(4, STAGES),
        Topology(2 * dp, {"pp": 2, "dp": dp}),
        "per_group:dp",
        lambda rank, dp=dp: (10, 30)[rank // dp],
    )
    for dp in (1, 4)
}
WIDER |= {
    f"per_group:pp pp=2 dp=2 to pp={pp} dp=2": (
        Topology(4, STAGES),
        Topology(2 * pp, {"pp": pp, "dp": 2}),
        "per_group:pp",
        lambda rank: (10, 20)[rank % 2],
    )
    for pp in (1, 4)
}
OTHER: dict[str, tuple[Topology, Topology, str]] = {
    "per_rank 2 to 1": (Topology(2), Topology(1), "per_rank"),
    "per_rank 2 to 4": (Topology(2), Topology(4), "per_rank"),
    "per_rank 2 to 8": (Topology(2), Topology(8), "per_rank"),
    "per_node 2 to 1": (nodes(2, 1), nodes(2), "per_node"),
    "per_node 2 to 3": (nodes(1, 2), nodes(3, 1, 4), "per_node"),
    "stages 2 to 1": (Topology(4, STAGES), Topology(2, {"pp": 1, "dp": 2}), "per_group:dp"),
    "stages to tensor-parallel": (
        Topology(4, {"pp": 2, "dp": 2, "tp": 1}),
        Topology(4, {"pp": 1, "dp": 2, "tp": 2}),
        "per_group:dp",
    ),
}
POLICIES = ("error", "fresh", "first")


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Ended]]:
    root = tmp_path_factory.mktemp("elastic")
    cases = {name: moved(saved, loaded, sharing, root / name) for name, (saved, loaded, sharing, _) in WIDER.items()}
    cases |= {
        f"{name} {policy}": moved(*layout, root / f"{name} {policy}", policy)
        for name, layout in OTHER.items()
        for policy in POLICIES
    }
    return batch(cases)


@pytest.mark.slow
@pytest.mark.parametrize("name", WIDER)
def test_what_all_share_loads_with_any_number_of_replicas(name: str, elsewhere: dict[str, list[Ended]]) -> None:
    _, loaded, _, seed = WIDER[name]
    for rank, (ended, found, loads, fresh) in enumerate(values(elsewhere[name])[: loaded.world_size]):
        assert (ended.value, ended.text) == ("loaded", "")
        assert (found, loads, fresh) == (seed(rank), 1, None)


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHER)
def test_a_missing_copy_is_an_error_by_default_that_changes_nothing(
    name: str, elsewhere: dict[str, list[Ended]]
) -> None:
    told = values(elsewhere[f"{name} error"])[: OTHER[name][1].world_size]
    for ended, found, loads, fresh in told:
        assert ended.error == "CheckpointError" and ended.types == {"MismatchError"}
        assert "component 'thing'" in ended.text and "on_missing_copy" in ended.text
        assert (found, loads, fresh) == (1, 0, None)
    assert len({ended.text for ended, *_ in told}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHER)
def test_where_copies_are_missing_all_start_afresh_or_get_the_first(
    name: str, elsewhere: dict[str, list[Ended]]
) -> None:
    ranks = OTHER[name][1].world_size
    for rank, (ended, found, loads, fresh) in enumerate(values(elsewhere[f"{name} fresh"])[:ranks]):
        assert (ended.value, found, loads, fresh) == ("fresh", 1, 0, (3, rank))
    for ended, found, loads, fresh in values(elsewhere[f"{name} first"])[:ranks]:
        assert ended.value.startswith("loaded from ")
        assert (found, loads, fresh) == (10, 1, None)


# -- torch's own objects -----------------------------------------------------------------------------------------------


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(600, 500), nn.LayerNorm(500), nn.ReLU(), nn.Linear(500, 600), nn.Dropout(0.1))


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    decayed = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    return torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}], lr=1e-2
    )


class Training:
    """A model under DDP with optimizer, schedule and generators, as a user holds them."""

    def __init__(self, seed: int) -> None:
        self.model = DistributedDataParallel(network(seed))
        self.optimizer = optimizer_of(self.model)
        self.schedule = torch.optim.lr_scheduler.MultiStepLR(self.optimizer, [2, 4])
        self.rng = RngState(seed)

    def components(self) -> list[StateComponent]:
        return [
            StateComponent("model", self.model),
            StateComponent("optimizer", self.optimizer),
            StateComponent("schedule", self.schedule),
            StateComponent("rng", self.rng, on_missing_copy="fresh"),
        ]

    def step(self, batch: torch.Tensor) -> None:
        self.model(batch).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.schedule.step()

    def state(self) -> Any:
        whole = [
            self.model.module.state_dict(),
            self.optimizer.state_dict(),
            self.schedule.state_dict(),
            torch.get_rng_state(),
        ]
        return bits(whole)


@pytest.mark.parametrize("size", [2, 4])
def test_a_model_under_ddp_goes_on_as_if_it_had_not_stopped(size: int, tmp_path: Path) -> None:
    def body(rank: Rank) -> tuple[bool, bool, Any]:
        with rank.process_group():
            topology = Topology(size)
            training = Training(seed=1)
            torch.manual_seed(rank.number)
            for number in range(3):
                training.step(torch.randn(8, 600, generator=torch.Generator().manual_seed(10 * number + rank.number)))
            coordinator = CheckpointCoordinator(training.components(), topology, tmp_path, "full", timeout_s=30)
            coordinator.save(3)
            before = training.state()
            last = torch.randn(8, 600, generator=torch.Generator().manual_seed(rank.number))
            training.step(last)
            after = training.state()
            other = Training(seed=2)
            other.model(last).sum().backward()  # DDP settles its buckets, which else changes the order of its sums once
            other.optimizer.zero_grad()
            coordinator = CheckpointCoordinator(other.components(), topology, tmp_path, timeout_s=30)
            manifest = coordinator.load("latest").manifest
            loaded = other.state() == before
            other.step(last)
            copies = {key: record.copies for key, record in manifest.components.items()}
            return (
                loaded,
                other.state() == after,
                {key: len(copy["all"].writers) for key, copy in copies.items() if "all" in copy},
            )

    for loaded, went_on, writers in run(body, size):
        assert loaded and went_on
        assert writers == {"model": 2, "optimizer": min(size, 4), "schedule": 1}


@pytest.fixture(autouse=True)
def _nothing_left_in(tmp_path: Path) -> Iterator[None]:
    yield
    assert not [*tmp_path.glob("**/.staging*"), *tmp_path.glob("**/.trash*")]
