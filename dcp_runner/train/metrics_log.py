"""The output of a run: metrics.jsonl with every step, log lines at intervals, a progress bar on a terminal."""

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


class MetricsLog:
    """Writes nothing: what all ranks but rank 0 use."""

    def start(self, step: int, max_steps: int) -> None:
        """Before the first step of this start; `step` steps are done already."""

    def step(self, step: int, metrics: dict[str, float]) -> None:
        """After an optimizer step."""

    def evaluated(self, step: int, metrics: dict[str, float]) -> None:
        """After an evaluation."""

    def saved(self, step: int, path: Path, seconds: float) -> None:
        """After a checkpoint is committed."""

    def event(self, step: int, event: str, text: str, **more: Any) -> None:
        """An event (saved, deleted, resumed, ...); `text` is for people."""

    def warning(self, step: int, event: str, text: str) -> None:
        """An event that people should look at."""

    def close(self) -> None:
        """After the last step, or while a failure ends the run."""


class Rank0MetricsLog(MetricsLog):
    """Writes the metrics of the run. Every method raises FileAccessError where metrics.jsonl cannot be written."""

    def __init__(self, metrics_file: Path, attempt: int, every_steps: int, progress: bool, trackers: Trackers) -> None:
        self._path = metrics_file
        with writing(metrics_file):
            self._file = open_to_append(metrics_file)
        self._attempt = attempt
        self._every_steps = every_steps
        self._trackers = trackers
        self._bar = _progress_bar() if progress and sys.stdout.isatty() else None
        self._task: Any = None
        self._max_steps = 0

    def start(self, step: int, max_steps: int) -> None:
        self._max_steps = max_steps
        if self._bar:
            self._bar.start()
            self._task = self._bar.add_task("training", total=max_steps, completed=step, metrics="")

    def step(self, step: int, metrics: dict[str, float]) -> None:
        self._record(step, metrics)
        text = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        if self._bar:
            self._bar.update(self._task, completed=step, metrics=text)
        elif step % self._every_steps == 0 or step == self._max_steps:
            log.info("step %d/%d  %s", step, self._max_steps, text)

    def evaluated(self, step: int, metrics: dict[str, float]) -> None:
        self._record(step, metrics)
        text = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        log.info("step %d/%d  %s", step, self._max_steps, text)

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
        with suppress(OSError):  # every line has been flushed, or has raised its own error
            self._file.close()
        self._trackers.close()

    def _record(self, step: int, metrics: dict[str, float]) -> None:
        self._write({"step": step, **metrics})  # first, because the next attempt reads here what the trackers have
        self._trackers.log(step, metrics)

    def _write(self, entry: dict[str, Any]) -> None:
        strict = {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in entry.items()}
        with writing(self._path):
            self._file.write(json.dumps({**strict, "attempt": self._attempt}, allow_nan=False) + "\n")
            self._file.flush()


def _progress_bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, TextColumn("{task.fields[metrics]}"))
