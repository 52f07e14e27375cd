"""How a component of the training state is shared between ranks, and how that is decided.

A sharing pattern is the name of the group of ranks that hold one copy. Below `resolve` nobody asks which pattern it
was: the topology turns a `Sharing` into copies, and everything else loops over copies.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum

AUTO = "auto"


class SharingPattern(StrEnum):
    """The group of ranks that hold one copy of a component."""

    GLOBAL = "global"
    """One copy for the world; the first rank has the authority."""
    REPLICATED = "replicated"
    """One copy for the world, equal on all ranks, which is checked."""
    PER_RANK = "per_rank"
    """A copy for each rank."""
    PER_GROUP = "per_group"
    """A copy for each group of ranks that differ only along the named mesh axes; equal inside a group, which is
    checked.
    """
    PER_NODE = "per_node"
    """A copy for each node; the node's first rank has the authority."""


@dataclass(frozen=True)
class Sharing:
    """A pattern, and for PER_GROUP the mesh axes that a group spans."""

    pattern: SharingPattern
    axes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.pattern.value + (":" + "+".join(self.axes) if self.axes else "")


@dataclass(frozen=True)
class SharingTraits:
    """What a live object shows of how it is held; the input of `sharing=auto`.

    The state differs along the mesh axes `varies_along`, by what its object says; `sharded_along`, because its tensors
    are shards (DTensors), so that what is not sharded there is equal; and `names_vary_along`, because each rank has
    tensors of other names (pipeline stages). `pattern` is set where the object leaves no choice.
    """

    why: str
    varies_along: frozenset[str] = frozenset()
    pattern: SharingPattern | None = None
    sharded_along: frozenset[str] = frozenset()
    names_vary_along: frozenset[str] = frozenset()


@dataclass(frozen=True)
class ResolvedSharing:
    """A decided sharing and the reason, for the plan table and the manifest."""

    sharing: Sharing
    reason: str
    independent: bool = False
    """Whether the copies need not agree on anything, not even where they are parts of one state: declared per_rank."""


def parse_sharing(text: str) -> Sharing:
    """`global`, `replicated`, `per_rank`, `per_node` or `per_group:<axes>` with axes joined by `+`.

    Raises ValueError with the valid spellings.
    """
    word, colon, rest = text.strip().lower().partition(":")
    axes = tuple(axis.strip() for axis in rest.split("+")) if colon else ()
    words = [pattern.value for pattern in SharingPattern]
    if word not in words:
        raise ValueError(
            f"unknown sharing {text!r}: expected auto, {', '.join(words[:-2])}, per_node or per_group:<axes>"
        )
    if (word == SharingPattern.PER_GROUP.value) != bool(axes) or not all(axes) or len(set(axes)) != len(axes):
        raise ValueError(
            f"sharing {text!r}: per_group, and only it, names mesh axes, as per_group:dp or per_group:dp+tp"
        )
    return Sharing(SharingPattern(word), axes)


def resolve(declared: str, traits: SharingTraits, axes: Sequence[str]) -> ResolvedSharing:
    """Decide the sharing of one component.

    `declared` is the user's text or `auto`; `axes` are the topology's mesh axes. A declaration wins; `auto` spans
    every axis along which the object does not vary. Raises ValueError for a declaration that does not parse or
    names an unknown axis, or that contradicts what the object shows.
    """
    apart = traits.sharded_along | traits.names_vary_along
    found = widest_sharing(apart | traits.varies_along, axes)
    if traits.pattern is not None:
        found = Sharing(traits.pattern)
    if declared == AUTO:
        return ResolvedSharing(found, traits.why)
    sharing = parse_sharing(declared)
    unknown = [axis for axis in sharing.axes if axis not in axes]
    if unknown:
        raise ValueError(
            f"sharing {declared!r} names mesh axis {', '.join(unknown)}; this topology has {', '.join(axes) or 'none'}"
        )
    lost = apart - distinct_axes(sharing, axes)
    if lost:
        raise ValueError(
            f"declared as {declared}, which keeps one copy along {', '.join(sorted(lost))}; but what the ranks hold "
            f"differs there ({traits.why}), so the rest would be lost. Declare {found}, or leave it to auto"
        )
    return ResolvedSharing(sharing, "declared", independent=sharing.pattern is SharingPattern.PER_RANK)


def widest_sharing(varies: Collection[str], axes: Sequence[str]) -> Sharing:
    """The widest sharing among ranks that differ along some of the axes only."""
    spanned = tuple(axis for axis in axes if axis not in varies)
    if len(spanned) == len(axes):
        return Sharing(SharingPattern.REPLICATED)
    return Sharing(SharingPattern.PER_GROUP, spanned) if spanned else Sharing(SharingPattern.PER_RANK)


def distinct_axes(sharing: Sharing, axes: Sequence[str]) -> frozenset[str]:
    """The axes along which the ranks hold different copies; of PER_NODE none, since nodes are no axis."""
    if sharing.pattern is SharingPattern.PER_RANK:
        return frozenset(axes)
    if sharing.pattern is SharingPattern.PER_GROUP:
        return frozenset(axes) - set(sharing.axes)
    return frozenset()
