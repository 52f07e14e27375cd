"""The ranks as plain integers: world size, mesh axes, nodes, and the copies that a sharing makes of a component."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from operator import index as to_index

from dcp_runner.checkpoint.sharing import Sharing, SharingPattern
from dcp_runner.common import launch_env

AXES = ("pp", "dp", "fsdp", "tp")
"""The usual mesh axes, outermost first: pipeline stages, replicas, shards, tensor parallelism."""

EVERYWHERE = "all"
"""The name of the copy that all ranks hold."""


@dataclass(frozen=True)
class Copy:
    """One copy of a component."""

    name: str
    """Consists of the coordinates that its holders have in common, so it means the same under another world size."""
    holders: tuple[int, ...]
    """The ranks that hold this copy, ascending."""
    writers: tuple[int, ...]
    """The holders that write it, each a share of the bytes."""
    equal: bool
    """Whether all holders must hold equal bytes."""


@dataclass(frozen=True)
class Topology:
    """The ranks of a run: how many there are, how they form a mesh, and which of them share a node.

        Topology(8, {"pp": 2, "dp": 4}, nodes=[[0, 1, 2, 3], [4, 5, 6, 7]])

    `axes` has the degree of each named mesh axis, outermost first; their product is the world size. By default all
    ranks are data-parallel (`dp`). `nodes` has the ranks of each node; by default there is one node. Any integers will
    do, numpy's too. Raises ValueError if these contradict each other, and TypeError for what is not an integer.
    """

    world_size: int
    axes: Mapping[str, int] | None = None
    nodes: Sequence[Sequence[int]] | None = None

    def __post_init__(self) -> None:
        world = _integer("world_size", self.world_size)
        axes = {name: _integer(f"axis {name!r}", degree) for name, degree in (self.axes or {"dp": world}).items()}
        nodes = self.nodes if self.nodes is not None and len(self.nodes) else [range(world)]
        ranks_of_nodes = tuple(tuple(_integer("a rank in nodes", rank) for rank in node) for node in nodes)
        if world < 1:
            raise ValueError(f"world_size must be at least 1, not {world}")
        if any(degree < 1 for degree in axes.values()) or prod(axes.values()) != world:
            shape = " x ".join(f"{name}={degree}" for name, degree in axes.items())
            raise ValueError(f"mesh {shape} needs {prod(axes.values())} ranks, but the world size is {world}")
        if sorted(rank for node in ranks_of_nodes for rank in node) != list(range(world)):
            raise ValueError(f"nodes {ranks_of_nodes} do not have each of the ranks 0 to {world - 1} exactly once")
        object.__setattr__(self, "world_size", world)
        object.__setattr__(self, "axes", axes)
        object.__setattr__(self, "nodes", ranks_of_nodes)

    @property
    def mesh(self) -> dict[str, int]:
        """The degree of each axis, outermost first."""
        return dict(self.axes or {})

    def coordinates(self, rank: int) -> dict[str, int]:
        """The rank's coordinate on each mesh axis (row-major, as in torch's DeviceMesh)."""
        coordinates: dict[str, int] = {}
        for name, degree in reversed(self.mesh.items()):
            rank, coordinates[name] = divmod(rank, degree)
        return {name: coordinates[name] for name in self.mesh}

    def rank_at(self, coordinates: Mapping[str, int]) -> int:
        """The rank with these coordinates; an axis that is not given counts as 0."""
        rank = 0
        for name, degree in self.mesh.items():
            rank = rank * degree + coordinates.get(name, 0)
        return rank

    def index(self, rank: int, axes: Sequence[str]) -> tuple[int, int]:
        """(index, size) of the rank on some axes flattened into one, such as dp and fsdp for the data-parallel rank."""
        coordinates, index, size = self.coordinates(rank), 0, 1
        for name, degree in self.mesh.items():
            if name in axes:
                index, size = index * degree + coordinates[name], size * degree
        return index, size

    def axes_among(self, ranks: Sequence[int]) -> frozenset[str]:
        """The axes on which these ranks have different coordinates."""
        all_coordinates = [self.coordinates(rank) for rank in ranks]
        return frozenset(axis for axis in self.mesh if len({each[axis] for each in all_coordinates}) > 1)

    def copies(self, sharing: Sharing) -> tuple[Copy, ...]:
        """All copies of a component with this sharing. Every rank holds exactly one of them."""
        if sharing not in self._copies_by_sharing:
            self._copies_by_sharing[sharing] = self._make_copies(sharing)
        return self._copies_by_sharing[sharing]

    @cached_property
    def _copies_by_sharing(self) -> dict[Sharing, tuple[Copy, ...]]:
        return {}

    def _make_copies(self, sharing: Sharing) -> tuple[Copy, ...]:
        groups: dict[str, list[int]] = {}
        for rank in range(self.world_size):
            groups.setdefault(self._copy_name(sharing, rank), []).append(rank)
        pattern = sharing.pattern
        equal = pattern in (SharingPattern.REPLICATED, SharingPattern.PER_GROUP, SharingPattern.PER_RANK)
        return tuple(
            Copy(name, tuple(ranks), tuple(ranks) if equal else (ranks[0],), equal) for name, ranks in groups.items()
        )

    def copy_of(self, sharing: Sharing, rank: int) -> Copy:
        """The copy that `rank` holds."""
        return next(copy for copy in self.copies(sharing) if rank in copy.holders)

    def _copy_name(self, sharing: Sharing, rank: int) -> str:
        if sharing.pattern is SharingPattern.PER_RANK:
            return f"rank-{rank:05d}"
        if sharing.pattern is SharingPattern.PER_NODE:
            return next(f"node-{index}" for index, node in enumerate(self.nodes or ()) if rank in node)
        if sharing.pattern is SharingPattern.PER_GROUP:
            coordinates = self.coordinates(rank)
            fixed = [
                f"{name}-{coordinates[name]}"
                for name, degree in self.mesh.items()
                if name not in sharing.axes and degree > 1
            ]
            return "_".join(fixed) or EVERYWHERE
        return EVERYWHERE

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None, **axes: int) -> Topology:
        """The topology of a process that torchrun or srun started; of one rank where neither did (as in a batch
        script). The environment is read as `dcp-runner` reads it (common/launch_env.py).

        `axes` are degrees by name, in mesh order; one may be -1 (the remaining ranks). Raises ValueError where they
        do not multiply to the world size, or where the variables contradict each other.
        """
        started = launch_env.from_env(os.environ if env is None else env)
        size, node_sizes = (started.size, started.node_sizes) if started else (1, (1,))
        if sum(node_sizes) != size:
            raise ValueError(
                f"{size} ranks do not divide into nodes of {[*node_sizes]} ranks; "
                "give Topology(..., nodes=[[0, 1], [2]])"
            )
        return cls(size, fill_degrees(axes, size), consecutive_nodes(node_sizes))


def fill_degrees(axes: Mapping[str, int], world: int) -> dict[str, int]:
    """Replace the degree that is -1, if there is one, by the world size divided by the other degrees."""
    known = max(1, prod(degree for degree in axes.values() if degree != -1))
    return {name: max(1, world // known) if degree == -1 else degree for name, degree in axes.items()}


def _integer(what: str, value: int) -> int:
    """The value as a plain int, whatever kind of integer it is."""
    try:
        return to_index(value)
    except TypeError as error:
        raise TypeError(f"{what} must be an integer, not {value!r}") from error


def consecutive_nodes(counts: Sequence[int]) -> list[list[int]]:
    """The ranks of each node if the nodes have so many consecutive ranks each."""
    starts = [sum(counts[:index]) for index in range(len(counts))]
    return [list(range(start, start + count)) for start, count in zip(starts, counts, strict=True)]
