"""Laws of copies, and the topology in a process that torchrun, srun or neither has started."""

from __future__ import annotations

import json
from itertools import combinations
from math import prod
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dcp_runner import SharingPattern, Topology
from dcp_runner.checkpoint.sharing import Sharing
from dcp_runner.checkpoint.topology import AXES, consecutive_nodes

P = SharingPattern


@st.composite
def topologies(draw: st.DrawFn) -> Topology:
    names = draw(st.permutations(AXES))[: draw(st.integers(1, 4))]
    axes = {name: draw(st.integers(1, 3)) for name in names}
    world = prod(axes.values())
    ranks = draw(st.permutations(range(world)))
    cuts = sorted(draw(st.sets(st.integers(1, max(1, world - 1)), max_size=3)))
    nodes = [ranks[low:high] for low, high in zip([0, *cuts], [*cuts, world], strict=True) if low < high]
    return Topology(world, axes, nodes)


@st.composite
def shared(draw: st.DrawFn) -> tuple[Topology, Sharing]:
    topology = draw(topologies())
    pattern = draw(st.sampled_from(P))
    axes = draw(st.sets(st.sampled_from(list(topology.mesh)), min_size=1)) if pattern is P.PER_GROUP else ()
    return topology, Sharing(pattern, tuple(axes))


@given(shared())
def test_copies_partition_the_ranks_and_writers_hold_what_they_write(case: tuple[Topology, Sharing]) -> None:
    topology, sharing = case
    copies = topology.copies(sharing)
    assert sorted(rank for copy in copies for rank in copy.holders) == list(range(topology.world_size))
    assert len({copy.name for copy in copies}) == len(copies)
    for copy in copies:
        assert list(copy.holders) == sorted(copy.holders)
        assert copy.writers and set(copy.writers) <= set(copy.holders)
        assert copy.writers == (copy.holders if copy.equal else copy.holders[:1])
        assert copy.equal is (sharing.pattern not in (P.GLOBAL, P.PER_NODE))
    for rank in range(topology.world_size):
        assert [copy for copy in copies if rank in copy.holders] == [topology.copy_of(sharing, rank)]


@given(topologies(), st.data())
def test_a_group_is_the_ranks_that_differ_only_along_its_axes(topology: Topology, data: st.DataObject) -> None:
    axes = data.draw(st.sets(st.sampled_from(list(topology.mesh)), min_size=1))
    one, other = (data.draw(st.integers(0, topology.world_size - 1)) for _ in range(2))
    sharing = Sharing(P.PER_GROUP, tuple(axes))
    places = topology.coordinates(one), topology.coordinates(other)
    together = all(places[0][axis] == places[1][axis] for axis in topology.mesh if axis not in axes)
    assert (topology.copy_of(sharing, one) == topology.copy_of(sharing, other)) is together


@given(topologies())
def test_coordinates_count_the_ranks_row_by_row(topology: Topology) -> None:
    """As torch's DeviceMesh: the last axis is the fastest."""
    everywhere = [tuple(topology.coordinates(rank).values()) for rank in range(topology.world_size)]
    assert everywhere == sorted(set(everywhere)) and len(everywhere) == topology.world_size
    assert all(list(topology.coordinates(rank)) == list(topology.mesh) for rank in range(topology.world_size))


@given(topologies(), st.data())
def test_the_index_among_some_axes_numbers_their_places(topology: Topology, data: st.DataObject) -> None:
    axes = tuple(data.draw(st.sets(st.sampled_from(AXES))))
    size = prod(degree for axis, degree in topology.mesh.items() if axis in axes)
    indices = [topology.index(rank, axes) for rank in range(topology.world_size)]
    assert {total for _, total in indices} == {size}
    assert sorted(index for index, _ in indices) == sorted(list(range(size)) * (topology.world_size // size))


SQUARE = Topology(4, {"pp": 2, "dp": 2})
CUBE = Topology(8, {"pp": 2, "dp": 2, "tp": 2})
NAMES: list[tuple[Topology, str, dict[str, tuple[int, ...]]]] = [
    (SQUARE, "dp", {"pp-0": (0, 1), "pp-1": (2, 3)}),
    (SQUARE, "pp", {"dp-0": (0, 2), "dp-1": (1, 3)}),
    (SQUARE, "pp+dp", {"all": (0, 1, 2, 3)}),
    (CUBE, "pp", {"dp-0_tp-0": (0, 4), "dp-0_tp-1": (1, 5), "dp-1_tp-0": (2, 6), "dp-1_tp-1": (3, 7)}),
    (CUBE, "dp", {"pp-0_tp-0": (0, 2), "pp-0_tp-1": (1, 3), "pp-1_tp-0": (4, 6), "pp-1_tp-1": (5, 7)}),
    (CUBE, "tp", {"pp-0_dp-0": (0, 1), "pp-0_dp-1": (2, 3), "pp-1_dp-0": (4, 5), "pp-1_dp-1": (6, 7)}),
    (CUBE, "pp+dp", {"tp-0": (0, 2, 4, 6), "tp-1": (1, 3, 5, 7)}),
    (CUBE, "dp+tp", {"pp-0": (0, 1, 2, 3), "pp-1": (4, 5, 6, 7)}),
    (CUBE, "tp+pp", {"dp-0": (0, 1, 4, 5), "dp-1": (2, 3, 6, 7)}),
    (CUBE, "pp+dp+tp", {"all": tuple(range(8))}),
    (Topology(2, {"pp": 1, "dp": 2, "tp": 1}), "dp", {"all": (0, 1)}),
]


@pytest.mark.parametrize(("topology", "axes", "expected"), NAMES)
def test_a_group_is_named_by_the_coordinates_that_it_does_not_span(
    topology: Topology, axes: str, expected: dict[str, tuple[int, ...]]
) -> None:
    copies = topology.copies(Sharing(P.PER_GROUP, tuple(axes.split("+"))))
    assert {copy.name: copy.holders for copy in copies} == expected


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (P.GLOBAL, {"all": ((0, 1, 2, 3), (0,))}),
        (P.REPLICATED, {"all": ((0, 1, 2, 3), (0, 1, 2, 3))}),
        (P.PER_RANK, {f"rank-0000{rank}": ((rank,), (rank,)) for rank in range(4)}),
        (P.PER_NODE, {"node-0": ((0, 3), (0,)), "node-1": ((1, 2), (1,))}),
    ],
)
def test_the_other_patterns(pattern: SharingPattern, expected: Any) -> None:
    copies = Topology(4, nodes=[[0, 3], [1, 2]]).copies(Sharing(pattern))
    assert {copy.name: (copy.holders, copy.writers) for copy in copies} == expected


def names(pattern: Sharing, **axes: int) -> set[str]:
    return {copy.name for copy in Topology(prod(axes.values()), axes).copies(pattern)}


def test_a_copy_keeps_its_name_under_another_world_size() -> None:
    by_stage = Sharing(P.PER_GROUP, ("dp",))
    assert names(by_stage, pp=2, dp=2) == names(by_stage, pp=2, dp=8) == names(by_stage, pp=2, dp=1) == {"pp-0", "pp-1"}
    assert (
        names(by_stage, pp=1, dp=4) == names(Sharing(P.REPLICATED), dp=2) == names(Sharing(P.GLOBAL), dp=1) == {"all"}
    )


def test_copies_along_different_axes_are_never_taken_for_each_other() -> None:
    by_group = Sharing(P.PER_GROUP, ("dp",))
    meshes = [{"pp": 2, "tp": 1}, {"pp": 1, "tp": 2}, {"fsdp": 2}, {"pp": 2, "tp": 2}]
    for one, other in combinations(meshes, 2):
        assert not names(by_group, dp=2, **one) & names(by_group, dp=2, **other)


TORCHRUN = {
    "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "MASTER_ADDR": "a",
    "MASTER_PORT": "1", "SLURM_PROCID": "0", "SLURM_NTASKS": "1",
}  # fmt: skip
SRUN = {
    "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "7",
    "SLURM_STEP_TASKS_PER_NODE": "2(x3),1",
}  # fmt: skip
FROM_ENV: list[tuple[dict[str, str], dict[str, int], int, dict[str, int], list[int]]] = [
    ({}, {}, 1, {"dp": 1}, [1]),
    ({}, {"pp": 1, "dp": -1}, 1, {"pp": 1, "dp": 1}, [1]),
    ({"SLURM_NTASKS": "8", "SLURM_JOB_ID": "1"}, {}, 1, {"dp": 1}, [1]),  # inside a job, but not started by srun
    (TORCHRUN, {}, 8, {"dp": 8}, [4, 4]),
    (TORCHRUN, {"pp": 2, "dp": -1}, 8, {"pp": 2, "dp": 4}, [4, 4]),
    (TORCHRUN, {"pp": 2, "dp": 2, "tp": 2}, 8, {"pp": 2, "dp": 2, "tp": 2}, [4, 4]),
    ({"WORLD_SIZE": "3"}, {}, 1, {"dp": 1}, [1]),  # of something else: torchrun sets RANK too
    (SRUN, {}, 7, {"dp": 7}, [2, 2, 2, 1]),
    (
        SRUN | {"SLURM_NTASKS": "6", "SLURM_STEP_TASKS_PER_NODE": "3(x2)"},
        {"dp": 2, "tp": -1},
        6,
        {"dp": 2, "tp": 3},
        [3, 3],
    ),
    (SRUN | {"SLURM_STEP_TASKS_PER_NODE": "1,6"}, {}, 7, {"dp": 7}, [1, 6]),
    ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, {}, 1, {"dp": 1}, [1]),  # a batch script
]


@pytest.mark.parametrize(("env", "axes", "world", "mesh", "counts"), FROM_ENV)
def test_the_environment_tells_the_world(
    env: dict[str, str], axes: dict[str, int], world: int, mesh: dict[str, int], counts: list[int]
) -> None:
    topology = Topology.from_env(env, **axes)
    assert (topology.world_size, topology.mesh) == (world, mesh)
    assert list(topology.mesh) == list(mesh)
    assert [list(node) for node in topology.nodes or ()] == consecutive_nodes(counts)


@pytest.mark.parametrize(
    ("env", "axes", "words"),
    [
        (TORCHRUN, {"pp": 3}, "pp=3 needs 3 ranks, but the world size is 8"),
        (TORCHRUN, {"pp": 3, "dp": -1}, "world size is 8"),
        (TORCHRUN, {"pp": 16, "dp": -1}, "world size is 8"),
        (TORCHRUN, {"pp": 0, "dp": -1}, "world size is 8"),
        (TORCHRUN, {"pp": -2, "dp": -4}, "world size is 8"),
        (TORCHRUN, {"pp": -1, "dp": -1}, "world size is 8"),
        (TORCHRUN | {"LOCAL_WORLD_SIZE": "3"}, {}, r"8 ranks do not divide into nodes of \[3, 3\] ranks"),
        (SRUN | {"SLURM_NTASKS": "8"}, {}, r"8 ranks do not divide into nodes of \[2, 2, 2, 1\] ranks"),
    ],
)
def test_contradictions_in_the_environment_are_refused(env: dict[str, str], axes: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Topology.from_env(env, **axes)


@pytest.mark.parametrize(
    ("axes", "nodes", "words"),
    [
        ({"pp": 2, "dp": 3}, None, "mesh pp=2 x dp=3 needs 6 ranks, but the world size is 4"),
        ({"dp": 0}, None, "dp=0"),
        (None, [[0, 1], [2]], "do not have each of the ranks 0 to 3 exactly once"),
        (None, [[0, 1], [1, 2, 3]], "once"),
        (None, [[0, 1, 2, 4]], "once"),
    ],
)
def test_contradictions_by_hand_are_refused(axes: Any, nodes: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Topology(4, axes, nodes)


def test_any_integers_make_a_topology() -> None:
    """A world size from numpy or torch, and nodes from an array, are plain integers in the manifest."""
    topology = Topology(
        np.int64(4),
        {"pp": np.int32(2), "dp": torch.tensor(2)},
        np.arange(4).reshape(2, 2),  # type: ignore[arg-type]
    )
    plain = Topology(4, {"pp": 2, "dp": 2}, [[0, 1], [2, 3]])
    assert topology == plain and repr(topology) == repr(plain)
    assert (
        json.dumps([topology.world_size, topology.mesh, topology.nodes]) == '[4, {"pp": 2, "dp": 2}, [[0, 1], [2, 3]]]'
    )


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("4",), TypeError, "world_size must be an integer, not '4'"),
        ((4.0,), TypeError, "world_size must be an integer, not 4.0"),
        ((4, {"dp": None}), TypeError, "axis 'dp' must be an integer, not None"),
        ((2, None, [["a", "b"]]), TypeError, "a rank in nodes must be an integer, not 'a'"),
        ((0,), ValueError, "world_size must be at least 1, not 0"),
    ],
)
def test_other_arguments_are_refused_in_one_line(arguments: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words) as failure:
        Topology(*arguments)
    assert "\n" not in str(failure.value)
