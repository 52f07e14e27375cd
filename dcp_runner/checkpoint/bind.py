"""Components bound to a topology: the sharing decided, the copies listed, this rank's own one found."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from dcp_runner.checkpoint.adapt import adapt, traits_of
from dcp_runner.checkpoint.component import StateComponent
from dcp_runner.checkpoint.config import Validation
from dcp_runner.checkpoint.sharing import Resolved, Sharing, equal_but_along, fixed_axes, resolve
from dcp_runner.checkpoint.topology import Copy, Topology


@dataclass(frozen=True)
class Bound:
    """A component in this topology, seen from one rank."""

    component: StateComponent
    stateful: Any
    resolved: Resolved
    copies: tuple[Copy, ...]
    mine: Copy
    level: Validation
    topology: Topology
    rank: int
    cut_along: frozenset[str] = frozenset()
    """Mesh axes along which its tensors are cut; a tensor that is not is held more widely than the component."""
    disjoint: set[frozenset[str]] = field(default_factory=set, compare=False)
    """What was found to have no name in common (see namesakes.py)."""

    @property
    def key(self) -> str:
        return self.component.key

    def sharing_of(self, cut: frozenset[str]) -> Sharing:
        """How what is cut along these axes is shared: as the component, and more widely along each axis by which
        others of its tensors are cut and this is not.
        """
        if not self.mine.equal or not self.cut_along:
            return self.resolved.sharing
        axes = tuple(self.topology.mesh)
        return equal_but_along(fixed_axes(self.resolved.sharing, axes) - self.cut_along | cut, axes)

    def wider(self) -> tuple[Copy, ...]:
        """The copies in which there may be what this rank holds and its own copy does not have written: those at the
        beginning of some of the axes by which not all tensors are cut.
        """
        place, cut = self.topology.coordinates(self.rank), sorted(self.cut_along)
        begun = (set(axes) for count in range(1, len(cut) + 1) for axes in combinations(cut, count))
        ranks = (self.topology.rank_at({axis: n for axis, n in place.items() if axis not in axes}) for axes in begun)
        found = dict.fromkeys(self.topology.copy_of(self.resolved.sharing, rank) for rank in ranks)
        return tuple(copy for copy in found if copy != self.mine)

    @property
    def compared(self) -> bool:
        """Whether there are other holders that must agree: on everything, or on names and shapes at level `none`."""
        widest = self.topology.copy_of(self.sharing_of(frozenset()), self.rank)
        return widest.equal and len(widest.holders) > 1

    @property
    def checked(self) -> bool:
        """Whether the values of holders are compared before a save."""
        return self.level is not Validation.none and self.compared

    @property
    def outline(self) -> str:
        """What all ranks must have declared alike, because each plans for all from it."""
        cut = ", cut along " + "+".join(sorted(self.cut_along)) if self.cut_along else ""
        policy = self.component.on_missing_copy
        return f"{self.resolved.sharing}{cut}, validation {self.level}, on_missing_copy {policy}"


def bind(
    components: Sequence[StateComponent],
    topology: Topology,
    rank: int,
    validation: Validation | str = Validation.tensor,
    validation_for: Mapping[str, Validation | str] | None = None,
) -> list[Bound]:
    """Resolve every component. Raises ValueError with all problems: doubled keys, sharings that do not fit, levels
    for nobody.
    """
    levels = dict(validation_for or {})
    keys = [component.key for component in components]
    problems = [f"two components have the key {key!r}" for key in sorted({key for key in keys if keys.count(key) > 1})]
    problems += [
        f"a validation level is given for {key!r}, which no component has" for key in levels if key not in keys
    ]
    bound = []
    for component, stateful in zip(components, adapt(components, topology), strict=True):
        traits = traits_of(stateful)
        try:
            resolved = resolve(component.declared, traits, tuple(topology.mesh))
            json.dumps(dict(component.metadata), allow_nan=False)
        except TypeError as error:
            problems.append(f"component {component.key!r}: its metadata is not JSON: {error}")
            continue
        except ValueError as error:
            problems.append(f"component {component.key!r}: {error}")
            continue
        level = Validation(levels.get(component.key) or component.validation_level or validation)
        if not component.validate_replication:
            level = Validation.none
        copies = topology.copies(resolved.sharing)
        mine = next(copy for copy in copies if rank in copy.holders)
        bound.append(Bound(component, stateful, resolved, copies, mine, level, topology, rank, traits.cut_along))
    if problems:
        raise ValueError("the components cannot be saved so:\n  " + "\n  ".join(problems))
    return bound
