"""Components in a topology, as one rank sees them: each with its sharing, its copies, and this rank's own copy."""

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
from dcp_runner.checkpoint.state.optim.optimizers import OptimizerState
from dcp_runner.checkpoint.stateful import HasSharingTraits
from dcp_runner.checkpoint.topology import Copy, Topology


@dataclass(frozen=True)
class BoundComponent:
    """A component in a topology, as one rank sees it."""

    component: StateComponent
    stateful: Any
    resolved: ResolvedSharing
    validation: Validation
    topology: Topology
    rank: int
    models: tuple[ModelState, ...] = ()
    """All models among the components."""
    sharded_along: frozenset[str] = frozenset()
    """Mesh axes along which its tensors are sharded. Along an axis by which it is not sharded, a tensor is replicated,
    so more ranks share it than share the component."""
    disjoint_names: set[frozenset[str]] = field(default_factory=set, compare=False)
    """Sums of tensor names that were found to belong to copies without a common name (see saving/shared_names.py)."""

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
        """The same component, now known to be sharded along these axes; `auto` decides again.

        For an object that is not a module: only its state shows its DTensors.
        """
        if axes <= self.sharded_along:
            return self
        sharded, resolved = self.sharded_along | axes, self.resolved
        if self.component.declared == AUTO:
            reason = f"tensors are sharded along {', '.join(sorted(sharded))} (DTensor)"
            traits = replace(_traits_of(self.stateful), reason=reason, sharded_along=sharded)
            resolved = resolve(AUTO, traits, tuple(self.topology.mesh))
        return replace(self, resolved=resolved, sharded_along=sharded)

    def as_saved(self, sharing: str) -> BoundComponent:
        """The same component with the sharing of a checkpoint that was saved in this topology."""
        saved = parse_sharing(sharing)
        sharded = distinct_axes(saved, tuple(self.topology.mesh))
        return replace(self, resolved=ResolvedSharing(saved, "as saved"), sharded_along=sharded)

    def sharing_of_tensor(self, sharded_along: frozenset[str]) -> Sharing:
        """The sharing of a tensor that is sharded along these axes: that of the component, but spanning also the axes
        along which other tensors of the component are sharded and this one is not.
        """
        if not self.own_copy.equal or not self.sharded_along:
            return self.resolved.sharing
        axes = tuple(self.topology.mesh)
        distinct = distinct_axes(self.resolved.sharing, axes)
        return widest_sharing(distinct - self.sharded_along | sharded_along, axes)

    def wider_copies(self) -> tuple[Copy, ...]:
        """Other copies that may have tensors of this rank which its own copy lacks, because the first holder of a
        tensor wrote it: the copies at coordinate 0 of one or more of the axes in `sharded_along`.
        """
        coordinates, sharded = self.topology.coordinates(self.rank), sorted(self.sharded_along)
        choices = [axes for count in range(1, len(sharded) + 1) for axes in combinations(sharded, count)]
        ranks = [self.topology.rank_at(coordinates | dict.fromkeys(axes, 0)) for axes in choices]
        found = dict.fromkeys(self.topology.copy_of(self.resolved.sharing, rank) for rank in ranks)
        return tuple(copy for copy in found if copy != self.own_copy)

    @property
    def has_equal_holders(self) -> bool:
        """Whether other ranks must hold what this rank holds. Names and shapes are then compared at every level."""
        widest = self.topology.copy_of(self.sharing_of_tensor(frozenset()), self.rank)
        return widest.equal and len(widest.holders) > 1

    @property
    def compares_values(self) -> bool:
        """Whether a save compares the values of the holders."""
        return self.validation is not Validation.none and self.has_equal_holders

    @property
    def declaration(self) -> str:
        """What all ranks must have declared alike, because each of them plans for all ranks."""
        sharded = ", sharded along " + "+".join(sorted(self.sharded_along)) if self.sharded_along else ""
        policy = self.component.on_missing_copy
        return f"{self.resolved.sharing}{sharded}, validation {self.validation}, on_missing_copy {policy}"


def bind(
    components: Sequence[StateComponent],
    topology: Topology,
    rank: int,
    validation: Validation | str = Validation.tensor,
    validation_for: Mapping[str, Validation | str] | None = None,
) -> list[BoundComponent]:
    """Resolve the sharing of every component.

    Raises ValueError with everything that is wrong: keys used twice, declarations that do not fit the topology or the
    object, validation levels for unknown components, metadata that is not JSON.
    """
    levels = dict(validation_for or {})
    keys = [component.key for component in components]
    problems = [f"key {key!r} is used by several components" for key in sorted({k for k in keys if keys.count(k) > 1})]
    problems += [f"validation_for names {key!r}, but no component has this key" for key in levels if key not in keys]
    statefuls = _adapt(components, topology)
    models = tuple(stateful for stateful in statefuls if isinstance(stateful, ModelState))
    bound = []
    for component, stateful in zip(components, statefuls, strict=True):
        traits = _traits_of(stateful)
        try:
            level = Validation(levels.get(component.key) or component.validation_level or validation)
            resolved = resolve(component.declared, traits, tuple(topology.mesh))
            json.dumps(dict(component.metadata), allow_nan=False)
        except TypeError as error:
            problems.append(f"component {component.key!r}: metadata is not JSON: {error}")
        except ValueError as error:
            problems.append(f"component {component.key!r}: {error}")
        else:
            level = level if component.validate_replication else Validation.none
            bound.append(
                BoundComponent(component, stateful, resolved, level, topology, rank, models, traits.sharded_along)
            )
    if problems:
        raise ValueError("invalid component declarations:\n  " + "\n  ".join(problems))
    return bound


def _adapt(components: Sequence[StateComponent], topology: Topology) -> list[Any]:
    """The Stateful of each component: a ModelState for a module, an OptimizerState for an optimizer."""
    models = [ModelState(c.stateful, c.key, topology) for c in components if isinstance(c.stateful, nn.Module)]
    by_module = {id(model.wrapper): model for model in models}

    def adapt(stateful: Any) -> Any:
        if isinstance(stateful, nn.Module):
            return by_module[id(stateful)]
        return OptimizerState(stateful, models) if isinstance(stateful, torch.optim.Optimizer) else stateful

    return [adapt(component.stateful) for component in components]


def _traits_of(stateful: Any) -> SharingTraits:
    return stateful.sharing_traits() if isinstance(stateful, HasSharingTraits) else PLAIN_OBJECT
