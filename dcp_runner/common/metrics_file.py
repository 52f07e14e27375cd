"""metrics.jsonl: one JSON object a line, appended by every attempt of a run; the only reader and the only opener."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

_NOT_METRICS = {"event", "attempt"}


def open_to_append(file: Path) -> TextIO:
    """The file, created where it does not exist, at the start of a line: the torn line of a killed attempt is
    ended first so that it takes no other with it.
    """
    lines = file.open("a", encoding="utf-8")
    with file.open("rb") as before:
        if before.seek(0, os.SEEK_END):
            before.seek(-1, os.SEEK_END)
            if before.read(1) != b"\n":
                lines.write("\n")
    return lines


def read_entries(file: Path) -> Iterator[dict[str, Any]]:
    """Its lines in order, events too; nothing where the file does not exist. Torn lines are skipped."""
    for line in file.read_bytes().split(b"\n") if file.is_file() else ():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            yield entry


def read_metrics(file: Path) -> Iterator[dict[str, Any]]:
    """The lines with metrics of a step, each with its `step` and `attempt`."""
    return (entry for entry in read_entries(file) if "event" not in entry)


def last_metrics(file: Path) -> dict[str, Any]:
    """The latest value of each metric by name, and the `step` of the last line; empty where there is none."""
    found: dict[str, Any] = {}
    for entry in read_metrics(file):
        found |= {key: value for key, value in entry.items() if key not in _NOT_METRICS}
    return found
