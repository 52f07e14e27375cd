"""How the state of a component is shared between the ranks, and how that is decided.

A sharing pattern names the group of ranks that hold one copy. It is looked at only here and in topology.py, which turns
a `Sharing` into copies; all other code loops over copies.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum

AUTO = "auto"
"""Declares no pattern: the traits of the object decide."""


class SharingPattern(StrEnum):
    """The group of ranks that hold one copy of a component."""

    GLOBAL = "global"
    """One copy for the world: rank 0 writes it, and no other rank is compared with it."""
    REPLICATED = "replicated"
    """One copy for the world, equal on all ranks; a save checks that."""
    PER_RANK = "per_rank"
    """One copy for each rank."""
    PER_GROUP = "per_group"
    """One copy for each group of ranks that differ only along the named mesh axes, equal within the group; a save
    checks that.
    """
    PER_NODE = "per_node"
    """One copy for each node: its first rank writes it, and no other rank is compared with it."""


@dataclass(frozen=True)
class Sharing:
    """A pattern, and with PER_GROUP the mesh axes that a group spans."""

    pattern: SharingPattern
    axes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.pattern.value + (":" + "+".join(self.axes) if self.axes else "")


@dataclass(frozen=True)
class SharingTraits:
    """How a live object is shared, as far as the object shows it; `auto` decides by it."""

    reason: str
    """For the plan table and the manifest, where `auto` decides."""
    varies_along: frozenset[str] = frozenset()
    """Mesh axes along which the ranks hold different state."""
    pattern: SharingPattern | None = None
    """The pattern that `auto` takes, whatever the axes; None: the widest one that the axes allow."""
    sharded_along: frozenset[str] = frozenset()
    """Mesh axes along which its DTensors are sharded; all else is equal along them."""
    names_vary_along: frozenset[str] = frozenset()
    """Mesh axes along which the ranks hold tensors of different names, such as the stages of a pipeline."""


@dataclass(frozen=True)
class ResolvedSharing:
    """A sharing, and the reason for it that the plan table and the manifest show."""

    sharing: Sharing
    reason: str
    independent: bool = False
    """Declared per_rank: the copies need not agree on anything, not even on what shards of one state have in common."""


def parse_sharing(text: str) -> Sharing:
    """Parse `global`, `replicated`, `per_rank`, `per_node` or `per_group:<axes>`, with axes joined by `+`.

    Raises ValueError with the valid spellings.
    """
    name, colon, rest = text.strip().lower().partition(":")
    axes = tuple(axis.strip() for axis in rest.split("+")) if colon else ()
    if name not in list(SharingPattern):
        raise ValueError(
            f"unknown sharing {text!r}: expected auto, global, replicated, per_rank, per_node or per_group:<axes>"
        )
    if (name == SharingPattern.PER_GROUP) != bool(axes) or not all(axes) or len(set(axes)) != len(axes):
        raise ValueError(
            f"sharing {text!r}: per_group, and no other pattern, names mesh axes: per_group:dp or per_group:dp+tp"
        )
    return Sharing(SharingPattern(name), axes)


def resolve(declared: str, traits: SharingTraits, axes: Sequence[str]) -> ResolvedSharing:
    """Decide the sharing of one component.

    `declared` is what the user wrote, `axes` are the topology's mesh axes. A declaration takes precedence; `auto` makes
    a copy span every axis along which the object does not vary. Raises ValueError for a declaration that does not
    parse, names an unknown axis, or would lose state.
    """
    parts_along = traits.sharded_along | traits.names_vary_along
    automatic = widest_sharing(parts_along | traits.varies_along, axes)
    if traits.pattern is not None:
        automatic = Sharing(traits.pattern)
    if declared == AUTO:
        return ResolvedSharing(automatic, traits.reason)
    sharing = parse_sharing(declared)
    unknown = [axis for axis in sharing.axes if axis not in axes]
    if unknown:
        raise ValueError(
            f"sharing {declared!r} names mesh axis {', '.join(unknown)}; this topology has {', '.join(axes) or 'none'}"
        )
    lost = parts_along - distinct_axes(sharing, axes)
    if lost:
        raise ValueError(
            f"declared as {declared}, which keeps a single copy along {', '.join(sorted(lost))}; but the ranks hold "
            f"different state there ({traits.reason}), so the rest would be lost. Declare {automatic} or auto"
        )
    return ResolvedSharing(sharing, "declared", independent=sharing.pattern is SharingPattern.PER_RANK)


def widest_sharing(varies: Collection[str], axes: Sequence[str]) -> Sharing:
    """The sharing with the largest groups, where ranks hold different state along the axes in `varies`."""
    spanned = tuple(axis for axis in axes if axis not in varies)
    if len(spanned) == len(axes):
        return Sharing(SharingPattern.REPLICATED)
    return Sharing(SharingPattern.PER_GROUP, spanned) if spanned else Sharing(SharingPattern.PER_RANK)


def distinct_axes(sharing: Sharing, axes: Sequence[str]) -> frozenset[str]:
    """The axes along which ranks hold different copies; none with PER_NODE, because nodes are not a mesh axis."""
    if sharing.pattern is SharingPattern.PER_RANK:
        return frozenset(axes)
    if sharing.pattern is SharingPattern.PER_GROUP:
        return frozenset(axes) - set(sharing.axes)
    return frozenset()
