"""Before a commit the parts of each tensor, over all ranks, are the whole tensor, and copies agree where they overlap."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gloo_ranks import Ended, Rank, caught, run
from gloo_states import Box
from gloo_topologies import TOPOLOGIES, Live, build, meshes, topology_of
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from dcp_runner.checkpoint.component import StateComponent
from dcp_runner.checkpoint.coordinator import CheckpointCoordinator
from dcp_runner.checkpoint.state import dtensor
from dcp_runner.checkpoint.topology import Topology

CUT = ["fsdp 2", "fsdp 4", "hsdp 2x2", "tp 2", "dp_tp 2x2", "fsdp_tp 2x2"]
LEVELS = ("none", "quick", "tensor", "full")
Change = Callable[[Live, Rank, pytest.MonkeyPatch], Any]


def as_rank_0(live: Live, rank: Rank, patch: pytest.MonkeyPatch) -> None:
    """The mesh says to this rank that it is rank 0, as where it was made in the process that the ranks are forked from."""
    dtensor._ranks_by_mesh_dim.cache_clear()
    patch.setattr(DeviceMesh, "get_coordinate", lambda mesh: [0] * mesh.mesh.ndim)
    patch.setattr(DeviceMesh, "_sym_get_coordinate", lambda mesh, dimension: 0)


def only(number: int, change: Change) -> Change:
    return lambda live, rank, patch: change(live, rank, patch) if rank.number == number else None


def buffer(differs: bool) -> Change:
    """In every stage, under one name."""

    def add(live: Live, rank: Rank, patch: pytest.MonkeyPatch) -> None:
        live.model.register_buffer("rope", torch.arange(6.0) + (rank.number if differs else 0))

    return add


def extra(live: Live, rank: Rank, patch: pytest.MonkeyPatch) -> None:
    """A small tensor that only some ranks have."""
    live.model.register_buffer("mine", torch.ones(3))


def part_of_another(live: Live, rank: Rank, patch: pytest.MonkeyPatch) -> None:
    """A parameter's part is one of a longer tensor, on this rank."""
    weight: Any = live.model.last.weight
    local = weight.to_local()
    longer = DTensor.from_local(local, weight.device_mesh, [Shard(1)], shape=(1, 60), stride=(60, 1), run_check=False)
    live.model.last.weight = torch.nn.Parameter(longer)


def nothing(live: Live, rank: Rank, patch: pytest.MonkeyPatch) -> None:
    pass


CASES: dict[str, tuple[str, Change, dict[str, Any]]] = {
    **{f"as rank 0, {name}, {level}": (name, as_rank_0, {"validation": level})
       for name in CUT for level in ("none", "tensor")},
    **{f"one as rank 0, hsdp, {level}": ("hsdp 2x2", only(3, as_rank_0), {"validation": level}) for level in LEVELS},
    "one as rank 0, fsdp": ("fsdp 2", only(1, as_rank_0), {}),
    **{f"right, {name}": (name, nothing, {}) for name in TOPOLOGIES if topology_of(name).world_size <= 4},
    **{f"right, per_rank, {name}": (name, nothing, {"sharing": "per_rank"}) for name in CUT},
    "another shape": ("fsdp 2", only(1, part_of_another), {}),
    "stages, same": ("pipeline 2", buffer(False), {}),
    "stages, differ": ("pipeline 2", buffer(True), {}),
    "stages of two, differ": ("dp_pp 2x2", lambda live, rank, _: live.model.register_buffer("rope", torch.ones(2) * (rank.number // 2)), {}),
    "stages, differ, not checked": ("pipeline 2", buffer(True), {"validation": "none"}),
    "stages, differ, per_rank": ("pipeline 2", buffer(True), {"sharing": "per_rank"}),
    **{f"small name, {level}": ("ddp 2", only(1, lambda live, *_: live.model.module.register_buffer("mine", torch.ones(3))), {"validation": level})
       for level in LEVELS},
    **{f"small name beside parts, {level}": ("tp 2", only(1, extra), {"validation": level}) for level in LEVELS},
}  # fmt: skip


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[Ended, Ended]]]:
    """By case, how two saves, and a load after them, ended on each rank."""
    root = tmp_path_factory.mktemp("tiling")

    def body(rank: Rank) -> dict[str, tuple[Ended, Ended]]:
        with rank.process_group():
            mesh_of = meshes(name for name in TOPOLOGIES if topology_of(name).world_size <= 4)
            cases = {name: case for name, case in CASES.items() if rank.number < topology_of(case[0]).world_size}
            return {name: one_case(name, root, rank, mesh_of.get(case[0])) for name, case in cases.items()}

    everyone = run(body, 4)
    return {name: [found[name] for found in everyone if name in found] for name in CASES}


def one_case(name: str, root: Path, rank: Rank, mesh: DeviceMesh | None) -> tuple[Ended, Ended]:
    topology_name, change, options = CASES[name]
    topology = topology_of(topology_name)
    live = build(topology_name, mesh, rank.number)
    component = StateComponent("model", live.model, options.get("sharing", "auto"))
    coordinator = CheckpointCoordinator(
        [component], topology, root / name, options.get("validation", "tensor"),
        comm=rank.comm(name, topology.world_size),
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        change(live, rank, patch)
        saved = caught(lambda: (coordinator.save(1), coordinator.save(2)))
    dtensor._ranks_by_mesh_dim.cache_clear()
    return saved, caught(lambda: coordinator.load(2))


def refused(ended: list[tuple[Ended, Ended]], kind: str, *words: str) -> None:
    text = ended[0][0].text
    for saved, _ in ended:
        assert (saved.phase, saved.types, saved.text) == ("verify", {kind}, text)
    for word in words:
        assert word in text, text


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("as rank 0")])
def test_a_save_of_the_same_part_on_every_rank_is_refused(name: str, outcomes: dict[str, Any]) -> None:
    refused(outcomes[name], "TilingError", "component 'model'", "is not held in full", "on rank 0-")


@pytest.mark.parametrize("level", LEVELS)
def test_a_part_in_the_wrong_place_on_one_rank_is_refused(level: str, outcomes: dict[str, Any]) -> None:
    refused(outcomes[f"one as rank 0, hsdp, {level}"], "ReplicaMismatchError", "rank")


def test_a_wrong_place_shows_which_elements_nobody_holds(outcomes: dict[str, Any]) -> None:
    refused(
        outcomes["one as rank 0, fsdp"],
        "TilingError",
        "'first.weight' of shape (6, 3)",
        "[0:3, 0:3] on rank 0-1",
        "9 of 18",
    )


def test_parts_must_agree_on_the_shape_of_the_whole(outcomes: dict[str, Any]) -> None:
    refused(
        outcomes["another shape"], "TilingError", "'last.weight' has the shape", "(1, 6) on rank 0", "(1, 60) on rank 1"
    )


@pytest.mark.parametrize(
    "name", [name for name in CASES if name.startswith("right")]
    + ["stages, same", "stages, differ, not checked", "stages, differ, per_rank"],
)  # fmt: skip
def test_what_is_whole_is_saved_and_loads(name: str, outcomes: dict[str, Any]) -> None:
    """Empty parts, equal parts on several ranks, buffers that all stages have."""
    assert [(saved.text, loaded.text) for saved, loaded in outcomes[name]] == [("", "")] * len(outcomes[name])


@pytest.mark.parametrize(
    ("name", "copies"),
    {"stages, differ": ("rank-00000", "rank-00001"), "stages of two, differ": ("pp-0", "pp-1")}.items(),
)
def test_one_name_with_two_values_is_refused_at_the_save(name: str, copies: Any, outcomes: dict[str, Any]) -> None:
    refused(outcomes[name], "ReplicaMismatchError", "tensor 'rope' has different values in copies", *copies)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", ["small name", "small name beside parts"])
def test_a_small_tensor_that_the_writer_lacks_is_never_lost(name: str, level: str, outcomes: dict[str, Any]) -> None:
    """Also where values are not compared."""
    refused(
        outcomes[f"{name}, {level}"], "ReplicaMismatchError", "component 'model'", "" if level == "quick" else "'mine'"
    )


def test_parts_of_a_users_own_state_are_checked_too(tmp_path: Path) -> None:
    def body(rank: Rank) -> Ended:
        with rank.process_group(), pytest.MonkeyPatch.context() as patch:
            mesh = meshes(["fsdp 2"])["fsdp 2"]
            part = DTensor.from_local(torch.ones(2, 2), mesh, [Shard(0)], run_check=False)
            box = Box({"ema": {"w": part}})
            component = StateComponent("mine", box, "per_rank")
            coordinator = CheckpointCoordinator([component], topology_of("fsdp 2"), tmp_path, comm=rank.comm("own"))
            coordinator.save(1)
            as_rank_0(None, rank, patch)  # type: ignore[arg-type]
            return caught(lambda: coordinator.save(2))

    ended = run(body, 2)
    assert [(one.types, "'ema/w' of shape (4, 2)" in one.text) for one in ended] == [({"TilingError"}, True)] * 2


@pytest.mark.parametrize("level", LEVELS)
def test_replicas_of_a_mesh_that_the_topology_does_not_know_are_compared_too(level: str, tmp_path: Path) -> None:
    """A loop of one's own that shards over a part of its ranks, and says only how many ranks there are."""

    def body(rank: Rank) -> tuple[Ended, Ended, Ended]:
        with rank.process_group():
            live = build("hsdp 2x2", meshes(["hsdp 2x2"])["hsdp 2x2"], rank.number)
            coordinator = CheckpointCoordinator(
                [StateComponent("model", live.model)], Topology(4), tmp_path, level, comm=rank.comm("flat")
            )
            equal = caught(lambda: coordinator.save(1))
            loaded = caught(lambda: coordinator.load(1))
            if rank.number == 3:
                with torch.no_grad():
                    live.model.first.weight.to_local().add_(1)
            return equal, loaded, caught(lambda: coordinator.save(2))

    for equal, loaded, apart in run(body, 4):
        assert (equal.text, loaded.text) == ("", "")
        assert apart.types == (set() if level == "none" else {"ReplicaMismatchError"})
        differ = "'first.weight' has the same part on several ranks, but its values differ between rank 1 and rank 3"
        assert level == "none" or differ in apart.text
