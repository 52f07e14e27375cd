"""What a run tells: metrics.jsonl with every step, log lines now and then, a progress bar where somebody watches."""

from __future__ import annotations

import json
import logging
import math
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dcp_runner.checkpoint.files.integrity import parse_manifest, read_manifest
from dcp_runner.common.files import writing
from dcp_runner.common.metrics_file import open_to_append
from dcp_runner.train.trackers import Trackers

log = logging.getLogger("dcp_runner.train")


class Report:
    """Silent: what the ranks other than the first use."""

    def start(self, step: int, max_steps: int) -> None:
        """Before the first step; `step` are done already."""

    def step(self, step: int, metrics: dict[str, float]) -> None:
        """After an optimizer step."""

    def evaluated(self, step: int, metrics: dict[str, float]) -> None:
        """After an evaluation."""

    def saved(self, step: int, path: Path, seconds: float) -> None:
        """After a checkpoint is committed."""

    def event(self, step: int, event: str, text: str, **more: Any) -> None:
        """Something happened: saved, deleted, resumed, nonfinite. `text` is for people."""

    def warning(self, step: int, event: str, text: str) -> None:
        """The same, of something that people should look at."""

    def close(self) -> None:
        """After the last step, or on the way out of a failure."""


class RunReport(Report):
    """Rank 0's. Every method raises FileAccessError where metrics.jsonl cannot be written."""

    def __init__(self, metrics_file: Path, attempt: int, every_steps: int, progress: bool, trackers: Trackers) -> None:
        self._path = metrics_file
        with writing(metrics_file):
            self._file = open_to_append(metrics_file)
        self._attempt = attempt
        self._every = every_steps
        self._trackers = trackers
        self._bar = _bar() if progress and sys.stdout.isatty() else None
        self._task: Any = None
        self._max_steps = 0

    def start(self, step: int, max_steps: int) -> None:
        self._max_steps = max_steps
        if self._bar:
            self._bar.start()
            self._task = self._bar.add_task("training", total=max_steps, completed=step, told="")

    def step(self, step: int, metrics: dict[str, float]) -> None:
        self._tell(step, metrics)
        told = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        if self._bar:
            self._bar.update(self._task, completed=step, told=told)
        elif step % self._every == 0 or step == self._max_steps:
            log.info("step %d/%d  %s", step, self._max_steps, told)

    def evaluated(self, step: int, metrics: dict[str, float]) -> None:
        self._tell(step, metrics)
        log.info("step %d/%d  %s", step, self._max_steps, "  ".join(f"{k} {v:.4f}" for k, v in metrics.items()))

    def saved(self, step: int, path: Path, seconds: float) -> None:
        size = sum(record.size for record in parse_manifest(read_manifest(path)).files.values())
        rate = size / 1e6 / max(seconds, 1e-9)
        text = f"SAVED step={step} {size / 1e6:.1f} MB in {seconds:.2f} s ({rate:.0f} MB/s) to {path}"
        self.event(step, "saved", text, bytes=size, seconds=round(seconds, 4))
        self._trackers.log(step, {"checkpoint/seconds": seconds, "checkpoint/bytes": size})

    def event(self, step: int, event: str, text: str, **more: Any) -> None:
        self._write({"step": step, "event": event, **more})
        log.info("%s", text)

    def warning(self, step: int, event: str, text: str) -> None:
        self._write({"step": step, "event": event})
        log.warning("%s", text)

    def close(self) -> None:
        if self._bar:
            self._bar.stop()
        with suppress(OSError):  # every line has been flushed, or was an error
            self._file.close()
        self._trackers.close()

    def _tell(self, step: int, metrics: dict[str, float]) -> None:
        self._write({"step": step, **metrics})  # first, because from here the next attempt knows what was told
        self._trackers.log(step, metrics)

    def _write(self, entry: dict[str, Any]) -> None:
        strict = {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in entry.items()}
        with writing(self._path):
            self._file.write(json.dumps({**strict, "attempt": self._attempt}, allow_nan=False) + "\n")
            self._file.flush()


def _bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, TextColumn("{task.fields[told]}"))
