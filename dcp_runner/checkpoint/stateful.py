"""The protocols of the object in a component: what it must have, and what it may have besides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from dcp_runner.checkpoint.sharing import SharingTraits


@runtime_checkable
class Stateful(Protocol):
    """The contract of torch.distributed.checkpoint, two methods: all that a component needs."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


@runtime_checkable
class HasSharingTraits(Protocol):
    """A Stateful that knows how its state is shared between ranks; `auto` decides by it."""

    def sharing_traits(self) -> SharingTraits: ...


@runtime_checkable
class SupportsDiff(Protocol):
    """A Stateful that compares a saved state with its own before any tensor is read."""

    def differences(self, state: dict[str, Any]) -> StateDiff:
        """What differs. The tensors of the saved state are on the meta device, and an enum is None if the live state
        has no enum in its place.
        """
        ...


@runtime_checkable
class SupportsSelection(SupportsDiff, Protocol):
    """A Stateful that loads only a part of a saved state."""

    def accepts(self) -> Callable[[tuple[str, ...]], bool]:
        """A predicate: whether this rank loads the item of a saved state with this path of dict keys."""
        ...


@runtime_checkable
class Reshardable(SupportsSelection, Protocol):
    """A Stateful whose copies are parts of one global state, and that can be resharded to any other parts of it."""

    def target_layout(self) -> Any:
        """A tree like the state: the value at the path of a saved tensor is the one that it is to be sharded like."""
        ...


@runtime_checkable
class SupportsReset(Protocol):
    """A Stateful with `on_missing_copy="fresh"` that must act when a resume leaves it without a saved state."""

    def reset(self, step: int, rank: int) -> None:
        """Start afresh at this step."""
        ...


@dataclass
class StateDiff:
    """Everything in which a saved state differs from the live one, as lines of text."""

    missing: list[str] = field(default_factory=list)
    """In the live object, but not in the checkpoint."""
    unexpected: list[str] = field(default_factory=list)
    """In the checkpoint, but not in the live object."""
    mismatched: list[str] = field(default_factory=list)
    """In both, but with different shapes, dtypes or types: an error even where a load is not strict."""
    accepted: list[str] = field(default_factory=list)
    """Differences that the object can cope with: sentences for the report."""
