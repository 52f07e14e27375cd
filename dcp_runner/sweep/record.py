"""`sweep.json`: what was submitted, and the state of each job when it was last checked.

<sweep>/sweep.json
<sweep>/.jobs/<number>/<id>.<restart>/   outcome of one start of a job: left-00003.json, rank-00003.json
<sweep>/.jobs/<number>/returned.pkl      what the job's function returned, for Hydra
<sweep>/.submitit/<id>/                  batch script and output, as submitit keeps them
<sweep>/<number>/                        the run folder
"""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

FILE, JOBS, SUBMITIT = "sweep.json", ".jobs", ".submitit"
_REASON = "told"
"""The key of a job's `reason` in the file."""


class JobState(StrEnum):
    """The state of one job of a sweep."""

    waiting = "waiting"
    """Not started yet, or waiting for a restart."""
    running = "running"
    done = "done"
    """All its ranks exited with 0, and the scheduler reports no failure."""
    failed = "failed"
    cancelled = "cancelled"

    @property
    def ended(self) -> bool:
        return self in (JobState.done, JobState.failed, JobState.cancelled)


@dataclass(kw_only=True)
class JobRecord:
    """One job of a sweep."""

    number: int
    overrides: list[str]
    config: str = ""
    """Digest of everything that determines its training; empty: the app's configuration is not ours."""
    folder: str = ""
    """The run folder, relative to the sweep folder."""
    nodes: int = 1
    tasks_per_node: int = 1
    ids: list[str] = field(default_factory=list)
    """The scheduler's ids, one per submission; the last one counts."""
    state: JobState = JobState.waiting
    attempts: int = 0
    """Starts, including those after a requeue."""
    ended_at: float = 0.0
    """When it was first seen COMPLETED with exit records missing, in seconds since the epoch; 0: never."""
    reason: str = ""
    """Why it is in this state, where that needs an explanation."""


@dataclass(kw_only=True)
class Sweep:
    """All jobs of a sweep folder."""

    path: Path
    scheduler: str
    """slurm or local."""
    command: list[str] = field(default_factory=list)
    """The arguments of the command that submitted it."""
    code: dict[str, Any] = field(default_factory=dict)
    """The git commit that was submitted."""
    jobs: list[JobRecord] = field(default_factory=list)

    def write(self) -> None:
        """Replace the file atomically."""
        plain = {key: value for key, value in asdict(self).items() if key != "path"}
        plain["jobs"] = [{_REASON if key == "reason" else key: job[key] for key in job} for job in plain["jobs"]]
        temporary = self.path / f".{FILE}.{socket.gethostname()}.{os.getpid()}.{threading.get_ident()}.tmp"
        temporary.write_text(json.dumps(plain, indent=1), encoding="utf-8")
        temporary.replace(self.path / FILE)

    def write_states(self) -> None:
        """Write the states of the jobs into the current file: another process may have resubmitted some meanwhile."""
        current = read(self.path)
        for job in current.jobs:
            seen = self.job(job.number)
            if seen is not None and seen.ids == job.ids:
                job.state, job.attempts, job.reason = seen.state, seen.attempts, seen.reason
                job.ended_at = seen.ended_at
        current.write()

    def job(self, number: int) -> JobRecord | None:
        return next((job for job in self.jobs if job.number == number), None)

    @property
    def common(self) -> list[str]:
        """The overrides that all jobs share; none where there is a single job."""
        first, *others = [job.overrides for job in self.jobs] or [[]]
        return [text for text in first if others and all(text in overrides for overrides in others)]

    def own_overrides(self, job: JobRecord) -> list[str]:
        """The overrides of a job that are not shared by all jobs."""
        return [text for text in job.overrides if text not in self.common]

    def job_dir(self, job: JobRecord) -> Path:
        """Where the job records the outcomes of its starts."""
        return self.path / JOBS / str(job.number)

    def starts(self, job: JobRecord) -> list[Path]:
        """The outcome folders of all starts of a job, oldest first."""
        found = [folder for folder in self.job_dir(job).glob("*.*/") if _id(folder) in job.ids]
        return sorted(found, key=lambda folder: (job.ids.index(_id(folder)), _restart(folder)))

    def outputs(self, job: JobRecord) -> Iterator[Path]:
        """Standard output and error of each task of its last submission."""
        for id in job.ids[-1:]:
            yield from sorted((self.path / SUBMITIT / id).glob("*_log.*"))


def read(path: Path) -> Sweep:
    """Read the sweep in a folder.

    Raises:
        FileNotFoundError: the folder holds no sweep.
    """
    file = path / FILE
    if not file.is_file():
        raise FileNotFoundError(
            f"{path}: not a sweep folder (no {FILE}, which sweeps of hydra/launcher=dcp_local and dcp_slurm have)"
        )
    plain = json.loads(file.read_text(encoding="utf-8"))
    return Sweep(path=path, jobs=[_job(job) for job in plain.pop("jobs")], **plain)


def _job(plain: dict[str, Any]) -> JobRecord:
    reason = plain.pop(_REASON, "")
    return JobRecord(**{**plain, "state": JobState(plain["state"]), "reason": reason})


def _id(folder: Path) -> str:
    return folder.name.rpartition(".")[0]


def _restart(folder: Path) -> int:
    return int(folder.name.rpartition(".")[2])
