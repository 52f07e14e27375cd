"""Who holds what, as plain integers: world size, mesh axes, ranks of each node, and the copies that a sharing makes
of them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from dcp_runner.checkpoint.sharing import Sharing, SharingPattern
from dcp_runner.common import launch_env

AXES = ("pp", "dp", "fsdp", "tp")
"""The usual mesh axes in DeviceMesh order: stages, replicas, shards, tensor-parallel ranks."""

EVERYWHERE = "all"
"""Name of the copy that the whole world holds."""


@dataclass(frozen=True)
class Copy:
    """One copy of a component.

    `name` is made of the coordinates that its group does not span, so that it means the same under another world size.
    """

    name: str
    holders: tuple[int, ...]
    """Ranks that hold this copy, ascending."""
    writers: tuple[int, ...]
    """Those among the holders that write it; they share out the bytes."""
    equal: bool
    """Whether all holders must hold the same bytes."""


@dataclass(frozen=True)
class Topology:
    """World size, named mesh axes (outermost first) and the ranks of each node.

    `axes` maps axis name to degree; their product is the world size. Without axes all ranks are data-parallel
    (`dp`). Without `nodes` all ranks are on one node. Raises ValueError where these contradict each other.
    """

    world_size: int
    axes: Mapping[str, int] | None = None
    nodes: Sequence[Sequence[int]] | None = None

    def __post_init__(self) -> None:
        axes = dict(self.axes) if self.axes else {"dp": self.world_size}
        nodes = tuple(tuple(node) for node in self.nodes) if self.nodes else (tuple(range(self.world_size)),)
        if any(degree < 1 for degree in axes.values()) or prod(axes.values()) != self.world_size:
            shape = " x ".join(f"{name}={degree}" for name, degree in axes.items())
            raise ValueError(f"mesh {shape} needs {prod(axes.values())} ranks, but the world size is {self.world_size}")
        if sorted(rank for node in nodes for rank in node) != list(range(self.world_size)):
            raise ValueError(f"nodes {nodes} do not hold each of the ranks 0 to {self.world_size - 1} once")
        object.__setattr__(self, "axes", axes)
        object.__setattr__(self, "nodes", nodes)
        object.__setattr__(self, "_known", {})

    @property
    def mesh(self) -> dict[str, int]:
        """Degree of every axis, outermost first."""
        return dict(self.axes or {})

    def coordinates(self, rank: int) -> dict[str, int]:
        """The rank's place on every mesh axis (row-major, as torch's DeviceMesh)."""
        place: dict[str, int] = {}
        for name, degree in reversed(self.mesh.items()):
            rank, place[name] = divmod(rank, degree)
        return {name: place[name] for name in self.mesh}

    def rank_at(self, place: Mapping[str, int]) -> int:
        """The rank with these coordinates; 0 where an axis is not given."""
        rank = 0
        for name, degree in self.mesh.items():
            rank = rank * degree + place.get(name, 0)
        return rank

    def index(self, rank: int, axes: Sequence[str]) -> tuple[int, int]:
        """(index, size) of the rank among the places of `axes` taken together, as a data-parallel index over dp and
        fsdp.
        """
        place, index, size = self.coordinates(rank), 0, 1
        for name, degree in self.mesh.items():
            if name in axes:
                index, size = index * degree + place[name], size * degree
        return index, size

    def axes_among(self, ranks: Sequence[int]) -> frozenset[str]:
        """The axes along which these ranks stand at different places."""
        places = [self.coordinates(rank) for rank in ranks]
        return frozenset(axis for axis in self.mesh if len({place[axis] for place in places}) > 1)

    def copies(self, sharing: Sharing) -> tuple[Copy, ...]:
        """All copies of a component that is shared so. Every rank holds exactly one."""
        known: dict[Sharing, tuple[Copy, ...]] = self._known  # type: ignore[attr-defined]
        if sharing not in known:
            known[sharing] = self._copies(sharing)
        return known[sharing]

    def _copies(self, sharing: Sharing) -> tuple[Copy, ...]:
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
            return next(f"node-{number}" for number, node in enumerate(self.nodes or ()) if rank in node)
        if sharing.pattern is SharingPattern.PER_GROUP:
            place = self.coordinates(rank)
            fixed = [f"{name}-{place[name]}" for name, n in self.mesh.items() if name not in sharing.axes and n > 1]
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
    """Replace the one degree that is -1 by what is left of the world size."""
    known = max(1, prod(degree for degree in axes.values() if degree != -1))
    return {name: max(1, world // known) if degree == -1 else degree for name, degree in axes.items()}


def consecutive_nodes(counts: Sequence[int]) -> list[list[int]]:
    """Ranks of each node where nodes hold so many consecutive ranks each."""
    starts = [sum(counts[:number]) for number in range(len(counts))]
    return [list(range(start, start + count)) for start, count in zip(starts, counts, strict=True)]
