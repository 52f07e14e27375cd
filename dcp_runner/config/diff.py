"""What changed in the configuration between the start that saved a checkpoint and the one that resumes it, and which
values the run now has.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dcp_runner.common.settings import settings
from dcp_runner.config.schema import RunConfig


@dataclass(frozen=True)
class Change:
    """One key with its old and new value, and which of them the run now has."""

    key: str
    old: Any
    new: Any
    effect: str


def changes(old: Mapping[str, Any], new: Mapping[str, Any], override: Collection[str], rate: str = "") -> list[Change]:
    """Every key whose value differs, in the order of the new configuration; not those that only say how a run starts.

    Options of the optimizer are part of its saved state: the checkpoint's value stays, unless the key is in `override`.
    `rate` says what happens to the learning rate; it is shown with the keys that shape its curve.
    """
    ignored = {entry.key for entry in settings(RunConfig()) if entry.facts.start_only}
    before, after = dict(_flat(old)), dict(_flat(new))
    keys = [*after, *(key for key in before if key not in after)]
    changed = [key for key in keys if before.get(key) != after.get(key) and key.split(".")[0] not in ignored]
    return [Change(key, before.get(key), after.get(key), _effect(key, override, rate)) for key in changed]


def _effect(key: str, override: Collection[str], rate: str) -> str:
    if rate and (key == "trainer.max_steps" or key.startswith("schedule.")):
        return f"new value; {rate}"
    if not key.startswith("optim.") or key == "optim._target_":
        return "new value"
    return (
        "new value (resume_override)"
        if key in override
        else f"old value, from the checkpoint (resume_override=[{key}] changes it)"
    )


def _flat(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _flat(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, node
