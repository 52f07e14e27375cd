"""Experiment trackers. A run folder is one run of theirs, however often it is started, and its steps never go back."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from dcp_runner.common.files import writing
from dcp_runner.common.metrics_file import read_metrics
from dcp_runner.common.run_dir import RunDir


class Tracker(Protocol):
    """Where metrics go besides metrics.jsonl. Rank 0 makes one in every attempt, as `Kind(run_dir, run_id, **options)`;
    `run_id` is the same in all attempts.
    """

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Metrics of a step. Those of one step may come in several calls; the steps never go back."""

    def close(self) -> None:
        """After the last step, or on the way out of a failure."""


class Trackers:
    """All trackers of an attempt. They are told nothing of the steps up to `mark`, which earlier attempts have told."""

    def __init__(self, trackers: Sequence[Tracker] = (), mark: int = 0) -> None:
        self._trackers = trackers
        self._mark = mark

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if step > self._mark:
            for tracker in self._trackers:
                tracker.log(step, metrics)

    def close(self) -> None:
        with ExitStack() as stack:  # one that fails does not keep the others open
            for tracker in self._trackers:
                stack.callback(tracker.close)


class TensorBoard:
    """Event files in the run folder; every attempt adds one."""

    def __init__(self, run_dir: Path, run_id: str, folder: str = "tensorboard") -> None:
        with of_extra("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter
        self._folder = run_dir / folder
        with writing(self._folder):
            self._writer: Any = SummaryWriter(self._folder)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        with writing(self._folder):
            for name, value in metrics.items():
                self._writer.add_scalar(name, value, step)
            self._writer.flush()  # a killed run leaves no gap: what is in metrics.jsonl is not told again

    def close(self) -> None:
        with suppress(OSError):  # every step has been flushed, or was an error
            self._writer.close()


class Wandb:
    """A run of Weights & Biases, continued by every attempt. `options` are those of `wandb.init`."""

    def __init__(self, run_dir: Path, run_id: str, project: str = "dcp_runner", **options: Any) -> None:
        with of_extra("wandb"):
            import wandb
        self._run: Any = wandb.init(id=run_id, resume="allow", dir=run_dir, project=project, **options)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        self._run.finish()


@contextmanager
def of_extra(name: str) -> Iterator[None]:
    """Around an import: a missing package is told with the extra that brings it."""
    try:
        yield
    except ImportError as error:
        raise ImportError(f"{error}; install it with: pip install 'dcp_runner[{name}]'") from error


def begin(run_dir: Path) -> tuple[str, int]:
    """The run's id for its trackers, made at their first start and never changed; and the last step they were told."""
    run = RunDir(run_dir)
    file = run.tracker_id_file
    if file.is_file():
        return file.read_text().strip(), _last_step(run.metrics_file)
    new = file.with_suffix(".new")
    with writing(file):
        new.write_text(f"{uuid.uuid4().hex}\n")
        new.replace(file)
    return file.read_text().strip(), 0


def _last_step(metrics_file: Path) -> int:
    """The largest step that has metrics: not the last one where a run went back."""
    return max((entry["step"] for entry in read_metrics(metrics_file)), default=0)
