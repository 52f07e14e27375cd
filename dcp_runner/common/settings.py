"""Facts about a configuration key, stated at its field: bounds, whether it is hashed, whether it takes new keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Any

_FACTS = "dcp_runner"


@dataclass(frozen=True)
class Facts:
    """Of one configuration key."""

    at_least: float | None = None
    at_most: float | None = None
    above: float | None = None
    """The value must be larger than this."""
    start_only: bool = False
    """It says how a run is started, not what it computes: neither hashed nor compared at a resume."""
    hashed: bool = True
    """It shapes the training, so that the hash of the configuration covers it."""
    open: bool = False
    """A node that takes new keys on the command line without a `+`."""


@dataclass(frozen=True)
class Setting:
    """A configuration key with its value."""

    key: str
    """Dotted."""
    value: Any
    facts: Facts


def setting(default: Any = MISSING, *, default_factory: Callable[[], Any] | Any = MISSING, **facts: Any) -> Any:
    """A dataclass field with these facts about it."""
    known = Facts(**facts)
    return field(default=default, default_factory=default_factory, metadata={_FACTS: known})


def settings(config: Any, path: str = "") -> Iterator[Setting]:
    """Every key of a configuration, with those of the dataclasses inside it."""
    for entry in fields(config):
        value, key = getattr(config, entry.name), f"{path}{entry.name}"
        yield Setting(key, value, entry.metadata.get(_FACTS, Facts()))
        if is_dataclass(value):
            yield from settings(value, f"{key}.")
