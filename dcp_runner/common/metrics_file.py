"""metrics.jsonl: one JSON object a line, appended by every attempt of a run. A killed one may leave a torn line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

_NOT_METRICS = {"event", "attempt"}


def open_to_append(file: Path) -> TextIO:
    """The file, made where there is none, at the beginning of a line: a torn one is ended, so that it takes no other
    with it.
    """
    lines = file.open("a", encoding="utf-8")
    with file.open("rb") as before:
        if before.seek(0, os.SEEK_END):
            before.seek(-1, os.SEEK_END)
            if before.read(1) != b"\n":
                lines.write("\n")
    return lines


def read_metrics(file: Path) -> Iterator[dict[str, Any]]:
    """What its lines hold, in order; nothing where there is no such file. A torn line counts for nothing."""
    for line in file.read_bytes().split(b"\n") if file.is_file() else ():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            yield entry


def last_metrics(run_dir: Path) -> dict[str, Any]:
    """Metrics by name, from metrics.jsonl, as the last attempt that made the step wrote them; `step` is the last one.
    Nothing where there is no such file.
    """
    found: dict[str, Any] = {}
    for entry in read_metrics(run_dir / "metrics.jsonl"):
        if "event" not in entry:
            found |= {key: value for key, value in entry.items() if key not in _NOT_METRICS}
    return found
