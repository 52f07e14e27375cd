"""A component: one logical piece of the training state, and how it is shared."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from dcp_runner.checkpoint.config import Validation
from dcp_runner.checkpoint.sharing import AUTO, SharingPattern, SharingTraits
from dcp_runner.checkpoint.stateful import Stateful

OnMissingCopy = Literal["error", "fresh", "first"]


@dataclass(frozen=True)
class StateComponent:
    """Declares one component.

    `key` names its files; `stateful` is an object with `state_dict` and `load_state_dict`, an nn.Module or an
    optimizer; `sharing_pattern` is a SharingPattern or its text, `auto` by default; `process_group_name` are the
    axes of PER_GROUP (`dp+tp`). `required=False` lets a checkpoint lack it, and a later run that has no such component
    drop its state. `validate_replication=False` switches the check of equal holders off, and `validation_level` sets
    its level. `metadata` goes into the manifest. `on_missing_copy` says what happens when the checkpoint was saved with
    other copies than are wanted: refuse, leave the object fresh, or give every rank the first copy. Raises ValueError
    for a key that cannot name a file or a contradiction between pattern and group.
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
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.]*", self.key):
            raise ValueError(f"component key {self.key!r} cannot name a file: use letters, digits, '_' and '.'")
        pattern, _, axes = self.declared.partition(":")
        if self.process_group_name and (pattern, axes) != (SharingPattern.PER_GROUP.value, self.process_group_name):
            raise ValueError(
                f"component {self.key!r}: process_group_name goes with PER_GROUP, not with {self.declared}"
            )
        if self.on_missing_copy not in ("error", "fresh", "first"):
            raise ValueError(
                f"component {self.key!r}: on_missing_copy is error, fresh or first, not {self.on_missing_copy!r}"
            )

    @property
    def declared(self) -> str:
        """The sharing as text: `auto`, `replicated`, `per_group:dp`."""
        text = self.sharing_pattern.value if isinstance(self.sharing_pattern, SharingPattern) else self.sharing_pattern
        if self.process_group_name and ":" not in text:
            text += ":" + self.process_group_name
        return text


@dataclass(frozen=True)
class WithTraits:
    """A Stateful with what is known of how it is held, for objects that cannot tell it themselves."""

    stateful: Stateful
    traits: SharingTraits

    def state_dict(self) -> dict[str, Any]:
        return self.stateful.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        return self.stateful.load_state_dict(state_dict)

    def sharing_traits(self) -> SharingTraits:
        return self.traits
