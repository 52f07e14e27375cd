"""`sweep.json`: what was submitted, and how it stood when somebody last looked.

<sweep>/sweep.json
<sweep>/.jobs/<number>/<id>.<restart>/   notes of one start of a job: left-00003.json, rank-00003.json
<sweep>/.jobs/<number>/returned.pkl      what the job's function has returned, for Hydra
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


class JobState(StrEnum):
    """Of one job of a sweep."""

    waiting = "waiting"
    """Not started, or to be started again."""
    running = "running"
    done = "done"
    """All its ranks have left with exit code 0, and the scheduler knows of no failure."""
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
    """Digest of everything that shapes its training; empty: a program that is not ours."""
    folder: str = ""
    """The run folder, relative to the sweep's."""
    nodes: int = 1
    tasks_per_node: int = 1
    ids: list[str] = field(default_factory=list)
    """The scheduler's, one for each submission; the last one counts."""
    state: JobState = JobState.waiting
    attempts: int = 0
    """Starts, those after a requeue included."""
    ended_at: float = 0.0
    """When it was first seen to have ended well without the notes of all ranks, seconds since the epoch; 0: never."""
    told: str = ""
    """Why it is in this state, where that needs words."""


@dataclass(kw_only=True)
class Sweep:
    """All jobs of a sweep folder."""

    path: Path
    scheduler: str
    """slurm or local."""
    command: list[str] = field(default_factory=list)
    """The arguments of the command that made it."""
    code: dict[str, Any] = field(default_factory=dict)
    """The git commit that was submitted."""
    jobs: list[JobRecord] = field(default_factory=list)

    def write(self) -> None:
        """In one step."""
        plain = {key: value for key, value in asdict(self).items() if key != "path"}
        beside = self.path / f".{FILE}.{socket.gethostname()}.{os.getpid()}.{threading.get_ident()}.tmp"
        beside.write_text(json.dumps(plain, indent=1), encoding="utf-8")
        beside.replace(self.path / FILE)

    def write_states(self) -> None:
        """What was seen of the jobs, into the record as it is now: somebody may have submitted one again meanwhile."""
        now = read(self.path)
        for job in now.jobs:
            seen = self.job(job.number)
            if seen is not None and seen.ids == job.ids:
                job.state, job.attempts, job.told = seen.state, seen.attempts, seen.told
                job.ended_at = seen.ended_at
        now.write()

    def job(self, number: int) -> JobRecord | None:
        return next((job for job in self.jobs if job.number == number), None)

    @property
    def common(self) -> list[str]:
        """The overrides that all jobs have, where there are several jobs."""
        first, *others = [job.overrides for job in self.jobs] or [[]]
        return [text for text in first if others and all(text in overrides for overrides in others)]

    def own_overrides(self, job: JobRecord) -> list[str]:
        """The overrides of a job that not all jobs have."""
        return [text for text in job.overrides if text not in self.common]

    def notes(self, job: JobRecord) -> Path:
        return self.path / JOBS / str(job.number)

    def starts(self, job: JobRecord) -> list[Path]:
        """The folders of notes of all starts of a job, the oldest first."""
        found = [folder for folder in self.notes(job).glob("*.*/") if _id(folder) in job.ids]
        return sorted(found, key=lambda folder: (job.ids.index(_id(folder)), _restart(folder)))

    def outputs(self, job: JobRecord) -> Iterator[Path]:
        """What the tasks of its last submission have printed: standard output and error of each."""
        for id in job.ids[-1:]:
            yield from sorted((self.path / SUBMITIT / id).glob("*_log.*"))


def read(path: Path) -> Sweep:
    """The sweep in a folder.

    Raises:
        FileNotFoundError: the folder holds no sweep.
    """
    file = path / FILE
    if not file.is_file():
        raise FileNotFoundError(f"{path}: no {FILE} in it, so it is not the folder of a sweep")
    plain = json.loads(file.read_text(encoding="utf-8"))
    jobs = [JobRecord(**{**job, "state": JobState(job["state"])}) for job in plain.pop("jobs")]
    return Sweep(path=path, jobs=jobs, **plain)


def _id(folder: Path) -> str:
    return folder.name.rpartition(".")[0]


def _restart(folder: Path) -> int:
    return int(folder.name.rpartition(".")[2])
