"""What a run has come to: the newest value of each of its metrics."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

_NOT_METRICS = {"event", "attempt"}


def result_of(run_dir: Path) -> dict[str, Any]:
    """Metrics by name, from metrics.jsonl, as the last attempt that made the step wrote them; `step` is the last one.
    Nothing where there is no such file.
    """
    file = run_dir / "metrics.jsonl"
    found: dict[str, Any] = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        with suppress(json.JSONDecodeError):  # it was killed while it wrote
            entry = json.loads(line)
            if "event" not in entry:
                found |= {key: value for key, value in entry.items() if key not in _NOT_METRICS}
    return found
