"""A component: one logical piece of the training state, and how it is shared."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from dcp_runner.checkpoint.config import Validation
from dcp_runner.checkpoint.sharing import AUTO, SharingPattern, Traits

OnMissingCopy = Literal["error", "fresh", "first"]


@runtime_checkable
class Stateful(Protocol):
    """The contract of torch.distributed.checkpoint: two methods."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


@runtime_checkable
class SelfDescribing(Protocol):
    """A Stateful that knows how it is held; read by `sharing=auto`."""

    def sharing_traits(self) -> Traits: ...


@runtime_checkable
class Comparing(Protocol):
    """A Stateful that can tell, before anything is read, how a saved state differs from it."""

    def differences(self, state: dict[str, Any]) -> Differences:
        """Compare with a saved state whose tensors are on the meta device, with None for an enum that is not here."""
        ...


@runtime_checkable
class Selecting(Comparing, Protocol):
    """A Stateful that takes a part of a saved state only."""

    def wanted(self) -> Callable[[tuple[str, ...]], bool]:
        """Whether this rank takes the item of a saved state that lies under these keys."""
        ...


@runtime_checkable
class Elastic(Selecting, Protocol):
    """A Stateful whose copies are parts of one state, by full names, and that can be re-cut to any other parts."""

    def layout(self) -> Any:
        """A state-like tree: what stands where a tensor stands in a saved state tells how that is to be cut."""
        ...


@runtime_checkable
class Refreshing(Protocol):
    """A Stateful with `on_missing_copy="fresh"` that wants to know when it starts afresh on a resume."""

    def start_fresh(self, step: int, rank: int) -> None: ...


@dataclass
class Differences:
    """Everything in which a saved state and a live one differ; lines of text, by kind."""

    missing: list[str] = field(default_factory=list)
    """In the live object and not in the checkpoint."""
    unexpected: list[str] = field(default_factory=list)
    """In the checkpoint and not in the live object."""
    wrong: list[str] = field(default_factory=list)
    """In both, and of another shape, dtype or kind."""
    accepted: list[str] = field(default_factory=list)
    """What the object makes do with; whole sentences for the report."""


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
class Described:
    """A Stateful with what is known of how it is held, for objects that cannot tell it themselves."""

    stateful: Stateful
    traits: Traits

    def state_dict(self) -> dict[str, Any]:
        return self.stateful.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        return self.stateful.load_state_dict(state_dict)

    def sharing_traits(self) -> Traits:
        return self.traits
