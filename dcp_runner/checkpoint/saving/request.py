"""What one save is asked to write beside the states of the components."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

AddFiles = Callable[[Path], object]
"""Called on rank 0 with the folder that becomes the checkpoint; whatever files it writes there become part of it."""
SHOWN = 80
"""Characters of a value that a message shows."""


@dataclass(frozen=True)
class SaveRequest:
    """One call of `save`, and what the manifest says of the run; the same on every rank."""

    step: int
    attempt: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    config: str = ""
    """Hash of the run's configuration."""
    origin: Mapping[str, Any] = field(default_factory=dict)
    add_files: AddFiles | None = None

    def checked(self) -> SaveRequest:
        """The same, with a plain int as step and plain floats as metrics.

        Raises ValueError for a step that is no whole number from 0 on, TypeError that names every metric that is no
        number.
        """
        bad = [f"{name!r} is {_shown(value)}" for name, value in self.metrics.items() if not _is_metric(name, value)]
        if bad:
            raise TypeError(f"metrics are numbers that fit a float, by name; {', '.join(bad)}")
        metrics = {name: float(value) for name, value in self.metrics.items()}
        return replace(self, step=_whole_number(self.step), metrics=metrics)


def _whole_number(step: Any) -> int:
    try:
        number = -1 if isinstance(step, bool) else operator.index(step)
    except TypeError:
        number = -1
    if number < 0:
        raise ValueError(f"a step is a whole number from 0 on; found {step!r}")
    return number


def _is_metric(name: Any, value: Any) -> bool:
    """A Python number, or a number of numpy's or torch's."""
    single = getattr(value, "shape", None) == () and "complex" not in str(getattr(value, "dtype", ""))
    if not isinstance(name, str) or not (isinstance(value, int | float) or single):
        return False
    try:
        float(value)
    except (OverflowError, TypeError, ValueError, RuntimeError):  # too large; no number; without data
        return False
    return True


def _shown(value: Any) -> str:
    if isinstance(value, int) and value.bit_length() > 64:
        return f"a whole number of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."
