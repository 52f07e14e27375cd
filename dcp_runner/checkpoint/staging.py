"""Staging: the states taken apart, each with its plan, and digested once for the comparison and for the files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from dcp_runner.checkpoint.bind import Bound
from dcp_runner.checkpoint.digest import Entry, TensorDigest, digest_tensor, entries, outlines
from dcp_runner.checkpoint.errors import UnstorableError
from dcp_runner.checkpoint.plan import Part, large, split
from dcp_runner.checkpoint.sharing import Sharing, fixed_axes
from dcp_runner.checkpoint.tree import Flat, flatten


@dataclass
class Staged:
    """This rank's copy of one component, taken apart, with its plan and digests."""

    bound: Bound
    flat: Flat
    shared: Mapping[str, Sharing]
    """By path of a tensor, how it is shared: more widely than the component, where it is not cut as others are."""
    parts: tuple[Part, ...] = ()
    digests: dict[str, TensorDigest] = field(default_factory=dict)

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes, by name, of the tensors that the writers of this copy write: its first holder has the tensor first."""
        copies = {sharing: self.bound.topology.copy_of(sharing, self.bound.rank) for sharing in {*self.shared.values()}}
        return {
            name: tensor.numel() * tensor.element_size()
            for name, tensor in self.flat.tensors.items()
            if copies[self.shared[name]].holders[0] in self.bound.mine.holders
        }

    def held_by(self, part: Part) -> dict[str, torch.Tensor]:
        """The tensors of one part."""
        sizes = self.sizes
        big = large(sizes)
        small = [name for name in sizes if name not in big] if part.number == 1 else []
        return {name: self.flat.tensors[name] for name in (*part.names, *small)}

    def layers(self) -> dict[str, dict[str, Entry]]:
        """What is compared, by the text of its sharing. What is no tensor is shared as tensors that are not cut."""
        uncut = self.bound.sharing_of(frozenset())
        found: dict[str, dict[str, Entry]] = {str(uncut): {}}
        table = entries(self.flat, self.digests) if self.bound.checked else outlines(self.flat)
        for path, entry in table.items():
            found.setdefault(str(self.shared.get(path, uncut)), {})[path] = entry
        return found


def take_apart(bound: Sequence[Bound]) -> list[Staged]:
    """Take all states apart and plan their parts. Raises UnstorableError with all that cannot be stored."""
    staged, refused = [], []
    for turn, one in enumerate(bound):
        try:
            flat = flatten(one.stateful.state_dict())
        except UnstorableError as error:
            refused.append(f"component {one.key!r} {error}")
            continue
        cut = {path: _cut_along(flat, path, one) for path in (*flat.tensors, *flat.tied)}
        spoiled = [path for path, axes in cut.items() if axes - fixed_axes(one.resolved.sharing, [*one.topology.mesh])]
        if spoiled:
            axes = ", ".join(sorted(cut[spoiled[0]]))
            refused.append(
                f"component {one.key!r}: {spoiled[0]} is a DTensor cut along {axes}, so it cannot be shared as "
                f"{one.resolved.sharing}; declare sharing.{one.key}=per_rank, or per_group with other axes"
            )
        sharing = {axes: one.sharing_of(axes) for axes in set(cut.values())}
        new = Staged(one, flat, {path: sharing[axes] for path, axes in cut.items()})
        new.parts = split(one.key, one.mine, new.sizes, turn)
        staged.append(new)
    if refused:
        raise UnstorableError("; ".join(refused))
    return staged


def _cut_along(flat: Flat, path: str, one: Bound) -> frozenset[str]:
    return frozenset(axis for ranks in flat.cuts.get(path, ()) for axis in one.topology.axes_among(ranks))


def digest(staged: Sequence[Staged]) -> None:
    """One pass over all tensors."""
    for one in staged:
        one.digests = {name: digest_tensor(tensor) for name, tensor in one.flat.tensors.items()}
