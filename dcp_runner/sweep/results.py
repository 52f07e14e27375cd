"""What a run has come to: the newest value of each of its metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dcp_runner.train.metrics_file import entries

_NOT_METRICS = {"event", "attempt"}


def result_of(run_dir: Path) -> dict[str, Any]:
    """Metrics by name, from metrics.jsonl, as the last attempt that made the step wrote them; `step` is the last one.
    Nothing where there is no such file.
    """
    found: dict[str, Any] = {}
    for entry in entries(run_dir / "metrics.jsonl"):
        if "event" not in entry:
            found |= {key: value for key, value in entry.items() if key not in _NOT_METRICS}
    return found
