"""Experiment trackers. For a tracker a run folder is one run, however often it is started; its steps never go back."""

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
    """Where metrics go besides metrics.jsonl. Rank 0 builds each tracker in every attempt, as
    `TrackerClass(run_dir, run_id, **options)`; `run_id` is the same in all attempts.
    """

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Metrics of a step. One step may come in several calls; the steps never go back."""

    def close(self) -> None:
        """After the last step, or while a failure ends the run."""


class Trackers:
    """All trackers of an attempt. Steps up to `last_logged` are skipped: earlier attempts have logged them."""

    def __init__(self, trackers: Sequence[Tracker] = (), last_logged: int = 0) -> None:
        self._trackers = trackers
        self._last_logged = last_logged

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if step > self._last_logged:
            for tracker in self._trackers:
                tracker.log(step, metrics)

    def close(self) -> None:
        with ExitStack() as stack:  # one that fails does not keep the others from closing
            for tracker in self._trackers:
                stack.callback(tracker.close)


class TensorBoard:
    """Event files in the run folder; every attempt adds a file."""

    def __init__(self, run_dir: Path, run_id: str, folder: str = "tensorboard") -> None:
        with needs_extra("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter
        self._folder = run_dir / folder
        with writing(self._folder):
            self._writer: Any = SummaryWriter(self._folder)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        with writing(self._folder):
            for name, value in metrics.items():
                self._writer.add_scalar(name, value, step)
            self._writer.flush()  # a killed run leaves no gap: steps in metrics.jsonl are not logged again

    def close(self) -> None:
        with suppress(OSError):  # every step has been flushed, or has raised its own error
            self._writer.close()


class Wandb:
    """A Weights & Biases run that every attempt continues. `options` are keyword arguments of `wandb.init`."""

    def __init__(self, run_dir: Path, run_id: str, project: str = "dcp_runner", **options: Any) -> None:
        with needs_extra("wandb"):
            import wandb
        self._run: Any = wandb.init(id=run_id, resume="allow", dir=run_dir, project=project, **options)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        self._run.finish()


@contextmanager
def needs_extra(name: str) -> Iterator[None]:
    """Around an import: the error about a missing package names the extra to install."""
    try:
        yield
    except ImportError as error:
        raise ImportError(f"{error}; install it with: pip install 'dcp_runner[{name}]'") from error


def run_id_and_last_step(run_dir: Path) -> tuple[str, int]:
    """The run's id for its trackers, which is the same at every start, and the last step that they have logged."""
    file = RunDir(run_dir).tracker_id_file
    if file.is_file():
        return file.read_text().strip(), _last_step(RunDir(run_dir).metrics_file)
    new = file.with_suffix(".new")
    with writing(file):
        new.write_text(f"{uuid.uuid4().hex}\n")
        new.replace(file)
    return file.read_text().strip(), 0


def _last_step(metrics_file: Path) -> int:
    """The largest step that has metrics, which is not in the last line if the run was rewound."""
    return max((entry["step"] for entry in read_metrics(metrics_file) if "event" not in entry), default=0)
