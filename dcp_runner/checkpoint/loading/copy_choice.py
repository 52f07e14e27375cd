"""Which saved copy a rank loads. Pure: every rank decides the same from the topology alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dcp_runner.checkpoint.component import OnMissingCopy

SHOWN = 6
"""Copies that a message names."""


@dataclass(frozen=True)
class CopyChoice:
    """Where a live copy gets its state from: a saved copy's name, or None (it is reset); and what that is called."""

    copy: str | None
    action: str


def choose_copies(saved: Sequence[str], live: Iterable[str], policy: OnMissingCopy) -> dict[str, CopyChoice]:
    """For every live copy the saved copy to load. The policy decides for the whole component, so that no two ranks
    are treated differently.

    Raises ValueError, naming missing and unused copies, where they differ and the policy is `error`.
    """
    wanted = list(live)
    if set(saved) == set(wanted):
        return {name: CopyChoice(name, "loaded") for name in wanted}
    if policy == "fresh":
        return {name: CopyChoice(None, "fresh") for name in wanted}
    if policy == "first":
        return {name: CopyChoice(saved[0], f"loaded from {saved[0]}") for name in wanted}
    missing = [name for name in wanted if name not in saved]
    unused = [name for name in saved if name not in wanted]
    found = [f"{what} {_names(names)}" for what, names in (("missing", missing), ("unused", unused)) if names]
    raise ValueError(
        f"the checkpoint was saved with different copies: {'; '.join(found)}. on_missing_copy='error' forbids loading. "
        "Resume with the original topology and sharing, or leave this component out with resume_skip"
    )


def _names(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
