"""Sweeps that are made by hand, as their jobs would leave them."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from dcp_runner.launch import outcomes
from dcp_runner.launch.outcomes import FailureRecord
from dcp_runner.sweep import record
from dcp_runner.sweep.record import JobRecord, Sweep


class Says:
    """A scheduler that reports the same state for every job."""

    def __init__(self, state: str) -> None:
        self.state = state

    def states(self, ids: Sequence[str]) -> dict[str, str]:
        return dict.fromkeys(ids, self.state)

    def cancel(self, ids: Sequence[str]) -> str:
        return ""


@cache
def ended_process() -> str:
    """The id of a process that has ended."""
    with subprocess.Popen(["true"]) as process:
        return str(process.pid)


def ended_sweep(path: Path) -> Path:
    """Job 0 is done, and rank 1 of job 1 has failed; neither has been checked yet."""
    jobs = [
        JobRecord(number=0, overrides=["optim.lr=0.1"], folder="0", ids=[ended_process()]),
        JobRecord(number=1, overrides=["optim.lr=0.2"], folder="1", ids=[ended_process()], tasks_per_node=2),
    ]
    made = Sweep(path=path, scheduler="local", jobs=jobs)
    made.write()
    end(made, jobs[0], {0: 0})
    lost = failure(0, 2.0, "DistNetworkError", "Connection reset by peer")
    end(made, jobs[1], {0: 1, 1: 1}, lost, failure(1, 3.0))
    for rank in (0, 1):
        write(path / f"1/logs/rank-0000{rank}.log", f"rank {rank} of job 1\n")
    write(path / "0/logs/rank-00000.log", "rank 0 of job 0\n")
    return path


def failure(rank: int, time: float, kind: str = "ValueError", message: str = "boom") -> FailureRecord:
    return FailureRecord(rank, "host", 1, kind, message, "Traceback", time)


def end(sweep: Sweep, job: JobRecord, codes: dict[int, int], *failures: FailureRecord) -> None:
    """What ranks record that have ended in the first start of the job's last submission."""
    start = sweep.job_dir(job) / f"{job.ids[-1]}.0"
    start.mkdir(parents=True)
    for rank, code in codes.items():
        outcomes.write_exit_record(start, rank, code)
    for failed in failures:
        outcomes.write_failure_record(start, failed)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def add(path: Path, **job: Any) -> JobRecord:
    """One more job."""
    sweep = record.read(path)
    sweep.jobs.append(JobRecord(number=len(sweep.jobs), overrides=[], folder=str(len(sweep.jobs)), **job))
    sweep.write()
    return sweep.jobs[-1]
