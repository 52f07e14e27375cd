"""Staging: the states taken apart, each with its plan, and digested once for the comparison and for the files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from dcp_runner.checkpoint.bind import Bound
from dcp_runner.checkpoint.digest import TensorDigest, digest_tensor
from dcp_runner.checkpoint.errors import UnstorableError
from dcp_runner.checkpoint.plan import Part, large, split
from dcp_runner.checkpoint.tree import Flat, flatten


@dataclass
class Staged:
    """This rank's copy of one component, taken apart, with its plan and digests."""

    bound: Bound
    flat: Flat
    parts: tuple[Part, ...]
    digests: dict[str, TensorDigest] = field(default_factory=dict)

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes by tensor name."""
        return {name: tensor.numel() * tensor.element_size() for name, tensor in self.flat.tensors.items()}

    def held_by(self, part: Part) -> dict[str, torch.Tensor]:
        """The tensors of one part."""
        big = large(self.sizes)
        small = [name for name in self.flat.tensors if name not in big] if part.number == 1 else []
        return {name: self.flat.tensors[name] for name in (*part.names, *small)}


def take_apart(bound: Sequence[Bound]) -> list[Staged]:
    """Take all states apart and plan their parts. Raises UnstorableError with all that cannot be stored."""
    staged, refused = [], []
    for turn, one in enumerate(bound):
        try:
            flat = flatten(one.stateful.state_dict())
        except UnstorableError as error:
            refused.append(f"component {one.key!r} {error}")
            continue
        new = Staged(one, flat, ())
        new.parts = split(one.key, one.mine, new.sizes, turn)
        staged.append(new)
    if refused:
        raise UnstorableError("; ".join(refused))
    return staged


def digest(staged: Sequence[Staged]) -> None:
    """One pass over all tensors."""
    for one in staged:
        one.digests = {name: digest_tensor(tensor) for name, tensor in one.flat.tensors.items()}
