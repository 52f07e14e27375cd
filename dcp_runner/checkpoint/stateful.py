"""The protocols of what a component holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from dcp_runner.checkpoint.sharing import SharingTraits


@runtime_checkable
class Stateful(Protocol):
    """The contract of torch.distributed.checkpoint: two methods."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


@runtime_checkable
class HasSharingTraits(Protocol):
    """A Stateful that knows how it is held; read by `sharing=auto`."""

    def sharing_traits(self) -> SharingTraits: ...


@runtime_checkable
class SupportsDiff(Protocol):
    """A Stateful that can tell, before anything is read, how a saved state differs from it."""

    def differences(self, state: dict[str, Any]) -> StateDiff:
        """Compare with a saved state whose tensors are on the meta device, with None for an enum that is not here."""
        ...


@runtime_checkable
class SupportsSelection(SupportsDiff, Protocol):
    """A Stateful that takes a part of a saved state only."""

    def accepts(self) -> Callable[[tuple[str, ...]], bool]:
        """Whether this rank takes the item of a saved state that lies under these keys."""
        ...


@runtime_checkable
class Reshardable(SupportsSelection, Protocol):
    """A Stateful whose copies are parts of one state, by full names, and that can be re-cut to any other parts."""

    def target_layout(self) -> Any:
        """A state-like tree: what stands where a tensor stands in a saved state tells how that is to be cut."""
        ...


@runtime_checkable
class SupportsReset(Protocol):
    """A Stateful with `on_missing_copy="fresh"` that wants to know when it starts afresh on a resume."""

    def reset(self, step: int, rank: int) -> None: ...


@dataclass
class StateDiff:
    """Everything in which a saved state and a live one differ; lines of text, by kind."""

    missing: list[str] = field(default_factory=list)
    """In the live object and not in the checkpoint."""
    unexpected: list[str] = field(default_factory=list)
    """In the checkpoint and not in the live object."""
    mismatched: list[str] = field(default_factory=list)
    """In both, and of another shape, dtype or kind."""
    accepted: list[str] = field(default_factory=list)
    """What the object makes do with; whole sentences for the report."""
