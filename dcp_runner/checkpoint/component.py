"""A component: one logical piece of the training state, and how it is shared between the ranks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from dcp_runner.checkpoint.config import Validation
from dcp_runner.checkpoint.sharing import AUTO, SharingPattern, SharingTraits
from dcp_runner.checkpoint.stateful import Stateful

OnMissingCopy = Literal["error", "fresh", "first"]
"""What a rank does if the checkpoint has no copy for it: fail, start afresh, or take the first copy."""
_POLICIES = list(get_args(OnMissingCopy))
_TYPES: dict[str, tuple[Any, str]] = {
    "key": (str, "a str"),
    "sharing_pattern": (str, "a SharingPattern or its text, such as 'per_rank' or 'per_group:dp'"),
    "process_group_name": ((str, type(None)), "the names of mesh axes as text, such as 'dp' or 'dp+tp'"),
    "required": (bool, "a bool"),
    "validate_replication": (bool, "a bool"),
}


@dataclass(frozen=True)
class StateComponent:
    """Declares one component of the training state: an object to save and load, under a key.

        StateComponent("model", model)
        StateComponent("rng", RngState(), SharingPattern.PER_RANK, on_missing_copy="fresh")
        StateComponent("sampler", sampler, "per_group:tp", required=False)

    key
        The component's name in messages and file names: letters, digits, `_` and `.`. No two components of a
        coordinator have the same.
    stateful
        The object: an nn.Module, a torch optimizer, or anything with `state_dict()` and `load_state_dict(state)`. Its
        state may consist of nested dicts, lists, tuples and sets of tensors, numbers, texts and the like.
    sharing_pattern
        Which ranks hold one copy of the state: a SharingPattern or its text. `auto`, the default, derives it from the
        object, such as from the DTensors of a model; a plain object counts as equal on all ranks.
    process_group_name
        With PER_GROUP, the mesh axes that a group spans, joined by `+`: `dp` or `dp+tp`. The pattern `per_group:dp+tp`
        says the same.
    required
        If False, a checkpoint may lack the component, and a run that does not have it may ignore its saved state.
    validate_replication
        If False, a save does not compare the values of ranks that should hold equal state.
    validation_level
        How a save compares them: `quick`, `tensor`, `full` or `none` (see Validation). None: as the coordinator says.
    metadata
        Anything that JSON can hold, for the manifest. It is not loaded back.
    on_missing_copy
        What a rank does if the checkpoint has no copy for it, because it was saved with other ranks or another sharing.
        `error`: the load fails. `fresh`: the object stays as it is, and its `reset(step, rank)` is called if it has
        one. `first`: it loads the first copy. Models, optimizers and other sharded state are resharded instead.

    Raises TypeError for an object that lacks the two methods and for any other argument of a wrong type; ValueError for
    a key that cannot name a file, for an unknown level or policy, and for a group that contradicts the pattern. What
    depends on the topology, the pattern's axes above all, is checked when the coordinator is made.
    """

    key: str
    stateful: Any
    sharing_pattern: SharingPattern | str = AUTO
    process_group_name: str | None = None
    required: bool = True
    validate_replication: bool = True
    validation_level: Validation | str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    on_missing_copy: OnMissingCopy = "error"

    def __post_init__(self) -> None:
        for name, (types, expected) in _TYPES.items():
            if not isinstance(value := getattr(self, name), types):
                raise TypeError(f"component {self.key!r}: {name} must be {expected}, not {value!r}")
        if isinstance(self.stateful, type) or not isinstance(self.stateful, Stateful):
            raise TypeError(
                f"component {self.key!r}: stateful must be an object with state_dict() and load_state_dict(), such as "
                f"a module or an optimizer, not {self.stateful!r:.80}"
            )
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.]*", self.key):
            raise ValueError(f"component key {self.key!r} cannot name a file: use letters, digits, '_' and '.'")
        pattern, _, axes = self.declared.partition(":")
        if self.process_group_name and (pattern, axes) != (SharingPattern.PER_GROUP.value, self.process_group_name):
            raise ValueError(
                f"component {self.key!r}: process_group_name goes with PER_GROUP, not with {self.declared}"
            )
        for name, choices in (("validation_level", [None, *Validation]), ("on_missing_copy", _POLICIES)):
            if (value := getattr(self, name)) not in choices:
                known = ", ".join(str(choice) for choice in choices)
                raise ValueError(f"component {self.key!r}: {name} must be one of {known}, not {value!r}")

    @property
    def declared(self) -> str:
        """The sharing as text: `auto`, `replicated`, `per_group:dp`."""
        text = str(self.sharing_pattern)
        if self.process_group_name and ":" not in text:
            text += ":" + self.process_group_name
        return text


@dataclass(frozen=True)
class WithTraits:
    """A Stateful with sharing traits, for an object that does not know them itself."""

    stateful: Stateful
    traits: SharingTraits

    def state_dict(self) -> dict[str, Any]:
        return self.stateful.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        return self.stateful.load_state_dict(state_dict)

    def sharing_traits(self) -> SharingTraits:
        return self.traits
