"""Components bound to a topology: the sharing decided, the copies listed, this rank's own one found."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from typing import Any

import torch
from torch import nn

from dcp_runner.checkpoint.component import StateComponent
from dcp_runner.checkpoint.config import Validation
from dcp_runner.checkpoint.sharing import (
    AUTO,
    ResolvedSharing,
    Sharing,
    SharingTraits,
    distinct_axes,
    parse_sharing,
    resolve,
    widest_sharing,
)
from dcp_runner.checkpoint.state.modules import PLAIN_OBJECT, ModelState
from dcp_runner.checkpoint.state.optimizers import OptimizerState
from dcp_runner.checkpoint.stateful import HasSharingTraits
from dcp_runner.checkpoint.topology import Copy, Topology


@dataclass(frozen=True)
class BoundComponent:
    """A component in this topology, seen from one rank."""

    component: StateComponent
    stateful: Any
    resolved: ResolvedSharing
    validation: Validation
    topology: Topology
    rank: int
    models: tuple[ModelState, ...] = ()
    """All models among the components."""
    sharded_along: frozenset[str] = frozenset()
    """Mesh axes along which its tensors are cut; a tensor that is not is held more widely than the component."""
    disjoint_names: set[frozenset[str]] = field(default_factory=set, compare=False)
    """What was found to have no name in common (see saving/shared_names.py)."""

    @property
    def key(self) -> str:
        return self.component.key

    @property
    def copies(self) -> tuple[Copy, ...]:
        return self.topology.copies(self.resolved.sharing)

    @cached_property
    def own_copy(self) -> Copy:
        """The copy that this rank holds."""
        return self.topology.copy_of(self.resolved.sharing, self.rank)

    def with_sharded_axes(self, axes: frozenset[str]) -> BoundComponent:
        """The same, where tensors turn out to be cut along these axes: only a state can tell it, of an object that is
        no module. `auto` decides anew.
        """
        if axes <= self.sharded_along:
            return self
        cut, resolved = self.sharded_along | axes, self.resolved
        if self.component.declared == AUTO:
            why = f"tensors are cut along {', '.join(sorted(cut))} (DTensor)"
            traits = replace(_traits_of(self.stateful), why=why, sharded_along=cut)
            resolved = resolve(AUTO, traits, tuple(self.topology.mesh))
        return replace(self, resolved=resolved, sharded_along=cut)

    def as_saved(self, sharing: str) -> BoundComponent:
        """The same, shared as it was when it was saved in this topology."""
        saved = parse_sharing(sharing)
        cut = distinct_axes(saved, tuple(self.topology.mesh))
        return replace(self, resolved=ResolvedSharing(saved, "as saved"), sharded_along=cut)

    def sharing_of_tensor(self, cut: frozenset[str]) -> Sharing:
        """How what is cut along these axes is shared: as the component, and more widely along each axis by which
        others of its tensors are cut and this is not.
        """
        if not self.own_copy.equal or not self.sharded_along:
            return self.resolved.sharing
        axes = tuple(self.topology.mesh)
        return widest_sharing(distinct_axes(self.resolved.sharing, axes) - self.sharded_along | cut, axes)

    def wider_copies(self) -> tuple[Copy, ...]:
        """The copies in which there may be what this rank holds and its own copy does not have written: those at the
        beginning of some of the axes by which not all tensors are cut.
        """
        place, cut = self.topology.coordinates(self.rank), sorted(self.sharded_along)
        begun = (set(axes) for count in range(1, len(cut) + 1) for axes in combinations(cut, count))
        ranks = (self.topology.rank_at({axis: n for axis, n in place.items() if axis not in axes}) for axes in begun)
        found = dict.fromkeys(self.topology.copy_of(self.resolved.sharing, rank) for rank in ranks)
        return tuple(copy for copy in found if copy != self.own_copy)

    @property
    def has_equal_holders(self) -> bool:
        """Whether there are other holders that must agree: on everything, or on names and shapes at level `none`."""
        widest = self.topology.copy_of(self.sharing_of_tensor(frozenset()), self.rank)
        return widest.equal and len(widest.holders) > 1

    @property
    def compares_values(self) -> bool:
        """Whether the values of holders are compared before a save."""
        return self.validation is not Validation.none and self.has_equal_holders

    @property
    def declaration(self) -> str:
        """What all ranks must have declared alike, because each plans for all from it."""
        cut = ", cut along " + "+".join(sorted(self.sharded_along)) if self.sharded_along else ""
        policy = self.component.on_missing_copy
        return f"{self.resolved.sharing}{cut}, validation {self.validation}, on_missing_copy {policy}"


def bind(
    components: Sequence[StateComponent],
    topology: Topology,
    rank: int,
    validation: Validation | str = Validation.tensor,
    validation_for: Mapping[str, Validation | str] | None = None,
) -> list[BoundComponent]:
    """Resolve every component. Raises ValueError with all problems: doubled keys, sharings that do not fit, levels
    for nobody.
    """
    levels = dict(validation_for or {})
    keys = [component.key for component in components]
    problems = [f"two components have the key {key!r}" for key in sorted({key for key in keys if keys.count(key) > 1})]
    problems += [
        f"a validation level is given for {key!r}, which no component has" for key in levels if key not in keys
    ]
    statefuls = _adapted(components, topology)
    models = tuple(stateful for stateful in statefuls if isinstance(stateful, ModelState))
    bound = []
    for component, stateful in zip(components, statefuls, strict=True):
        traits = _traits_of(stateful)
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
        bound.append(BoundComponent(component, stateful, resolved, level, topology, rank, models, traits.sharded_along))
    if problems:
        raise ValueError("the components cannot be saved so:\n  " + "\n  ".join(problems))
    return bound


def _adapted(components: Sequence[StateComponent], topology: Topology) -> list[Any]:
    """The Stateful of each component."""
    models = [ModelState(c.stateful, c.key, topology) for c in components if isinstance(c.stateful, nn.Module)]
    by_module = {id(model.wrapper): model for model in models}
    return [_adapted_one(component.stateful, models, by_module) for component in components]


def _adapted_one(stateful: Any, models: Sequence[ModelState], by_module: dict[int, ModelState]) -> Any:
    if isinstance(stateful, nn.Module):
        return by_module[id(stateful)]
    if isinstance(stateful, torch.optim.Optimizer):
        return OptimizerState(stateful, models)
    return stateful


def _traits_of(stateful: Any) -> SharingTraits:
    """What an adapted Stateful shows of how it is shared."""
    return stateful.sharing_traits() if isinstance(stateful, HasSharingTraits) else PLAIN_OBJECT
