"""Before a save writes: states flattened, planned in parts, and digested once for the comparison and for the files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from dcp_runner.checkpoint.bind import BoundComponent
from dcp_runner.checkpoint.digest import TensorDigest, digest_tensor
from dcp_runner.checkpoint.errors import UnsupportedStateError
from dcp_runner.checkpoint.saving.write_plan import Part, large, split
from dcp_runner.checkpoint.sharing import Sharing, distinct_axes
from dcp_runner.checkpoint.state.fingerprints import LeafFingerprint, fingerprints, layout_fingerprints
from dcp_runner.checkpoint.state.flatten import FlatState, flatten
from dcp_runner.checkpoint.sync.comm import Comm


@dataclass
class PreparedComponent:
    """This rank's copy of one component, flattened, with the plan of its parts and digests."""

    bound: BoundComponent
    flat: FlatState
    shared: Mapping[str, Sharing]
    """By path of a tensor, how it is shared: more widely than the component, where others are sharded and it is not."""
    parts: tuple[Part, ...] = ()
    digests: dict[str, TensorDigest] = field(default_factory=dict)

    @classmethod
    def of(cls, bound: BoundComponent, flat: FlatState) -> PreparedComponent:
        """Without a plan and digests."""
        sharded_along = {path: _sharded_along(flat, path, bound) for path in (*flat.tensors, *flat.tied)}
        sharing = {axes: bound.sharing_of_tensor(axes) for axes in set(sharded_along.values())}
        return cls(bound, flat, {path: sharing[axes] for path, axes in sharded_along.items()})

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes, by name, of the tensors that the writers of this copy write: its first holder has the tensor first."""
        copies = {sharing: self.bound.topology.copy_of(sharing, self.bound.rank) for sharing in {*self.shared.values()}}
        return {
            name: tensor.numel() * tensor.element_size()
            for name, tensor in self.flat.tensors.items()
            if copies[self.shared[name]].holders[0] in self.bound.own_copy.holders
        }

    def tensors_of(self, part: Part) -> dict[str, torch.Tensor]:
        """The tensors of one part."""
        sizes = self.sizes
        big = large(sizes)
        small = [name for name in sizes if name not in big] if part.number == 1 else []
        return {name: self.flat.tensors[name] for name in (*part.names, *small)}

    def by_sharing(self) -> dict[str, dict[str, LeafFingerprint]]:
        """What is compared, by the text of its sharing. All but tensors is shared as tensors that are not sharded."""
        uncut = self.bound.sharing_of_tensor(frozenset())
        found: dict[str, dict[str, LeafFingerprint]] = {str(uncut): {}}
        table = fingerprints(self.flat, self.digests) if self.bound.compares_values else layout_fingerprints(self.flat)
        for path, entry in table.items():
            found.setdefault(str(self.shared.get(path, uncut)), {})[path] = entry
        return found


def flatten_states(bound: Sequence[BoundComponent]) -> list[FlatState]:
    """Flatten all states. Raises UnsupportedStateError with everything that cannot be stored."""
    flats, refused = [], []
    for component in bound:
        try:
            flats.append(flatten(component.stateful.state_dict()))
            refused += _lost_by_sharing(component, flats[-1])
        except UnsupportedStateError as error:
            refused.append(f"component {component.key!r} {error}")
    if refused:
        raise UnsupportedStateError("; ".join(refused))
    return flats


def plan_parts(bound: Sequence[BoundComponent], flats: Sequence[FlatState], comm: Comm) -> list[PreparedComponent]:
    """Prepare all components, each with the plan of its parts.

    Every rank plans for all, so they exchange the axes along which a state is sharded: a stage of a pipeline may hold
    no sharded tensor where another does. Called by all ranks. Raises CheckpointError.
    """
    everyone = comm.exchange("plan", [sorted(_axes(flat, part)) for part, flat in zip(bound, flats, strict=True)])
    sharded_axes = [frozenset().union(*axes_by_rank) for axes_by_rank in zip(*everyone, strict=True)]
    prepared = [
        PreparedComponent.of(part.with_sharded_axes(axes), flat)
        for part, flat, axes in zip(bound, flats, sharded_axes, strict=True)
    ]
    for rotation, component in enumerate(prepared):
        component.parts = split(component.bound.key, component.bound.own_copy, component.sizes, rotation)
    return prepared


def digest_tensors(prepared: Sequence[PreparedComponent]) -> None:
    """One pass over all tensors."""
    for component in prepared:
        component.digests = {name: digest_tensor(tensor) for name, tensor in component.flat.tensors.items()}


def _lost_by_sharing(bound: BoundComponent, flat: FlatState) -> list[str]:
    """What would be lost: tensors that are sharded along axes along which the component's sharing keeps one copy."""
    sharing = bound.with_sharded_axes(_axes(flat, bound)).resolved.sharing
    kept = distinct_axes(sharing, [*bound.topology.mesh])
    lost = {path: axes - kept for path in flat.shard_groups if (axes := _sharded_along(flat, path, bound)) - kept}
    if not lost:
        return []
    path, axes = next(iter(lost.items()))
    return [
        f"component {bound.key!r}: {path} is a DTensor that is sharded along {', '.join(sorted(axes))}, so it cannot "
        f"be shared as {sharing}; declare sharing.{bound.key}=per_rank, or per_group with other axes, or leave it to "
        "auto"
    ]


def _axes(flat: FlatState, bound: BoundComponent) -> frozenset[str]:
    """All axes along which this rank's tensors are sharded."""
    return frozenset(axis for path in flat.shard_groups for axis in _sharded_along(flat, path, bound))


def _sharded_along(flat: FlatState, path: str, bound: BoundComponent) -> frozenset[str]:
    return frozenset(axis for ranks in flat.shard_groups.get(path, ()) for axis in bound.topology.axes_among(ranks))
