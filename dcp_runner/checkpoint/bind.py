"""Components bound to a topology: the sharing decided, the copies listed, this rank's own one found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dcp_runner.checkpoint.component import StateComponent
from dcp_runner.checkpoint.config import Validation
from dcp_runner.checkpoint.live import adapt, traits_of
from dcp_runner.checkpoint.sharing import Resolved, resolve
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

    @property
    def key(self) -> str:
        return self.component.key

    @property
    def checked(self) -> bool:
        """Whether the holders of a copy are compared before a save."""
        return self.level is not Validation.none and any(copy.equal and len(copy.holders) > 1 for copy in self.copies)

    @property
    def outline(self) -> str:
        """What all ranks must have declared alike, because each plans for all from it."""
        return f"{self.resolved.sharing}, validation {self.level}, on_missing_copy {self.component.on_missing_copy}"


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
    for component, stateful in zip(components, adapt(components), strict=True):
        try:
            resolved = resolve(component.declared, traits_of(stateful), tuple(topology.mesh))
        except ValueError as error:
            problems.append(f"component {component.key!r}: {error}")
            continue
        level = Validation(levels.get(component.key) or component.validation_level or validation)
        if not component.validate_replication:
            level = Validation.none
        copies = topology.copies(resolved.sharing)
        mine = next(copy for copy in copies if rank in copy.holders)
        bound.append(Bound(component, stateful, resolved, copies, mine, level))
    if problems:
        raise ValueError("the components cannot be saved so:\n  " + "\n  ".join(problems))
    return bound
