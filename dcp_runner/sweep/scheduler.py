"""Asking the scheduler about jobs, and cancelling them: SLURM, or the processes of this machine."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from dcp_runner.sweep.record import SUBMITIT

PENDING = {"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT", "CONFIGURING"}
RUNNING = {"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"}
_ANSWER_S = 60
_MAX_ARRAY_SIZE = 1001


class SchedulerUnavailable(RuntimeError):
    """The scheduler does not answer; that implies nothing about the jobs."""


class Scheduler(Protocol):
    """Where the jobs of a sweep run."""

    def states(self, ids: Sequence[str]) -> dict[str, str]:
        """The state of each job, as SLURM names it; jobs that are no longer known are missing.

        Raises:
            SchedulerUnavailable: the scheduler does not answer.
        """

    def cancel(self, ids: Sequence[str]) -> str:
        """Cancel these jobs. Returns the scheduler's message where it refuses; empty: all were cancelled.

        Raises:
            SchedulerUnavailable: the scheduler does not answer.
        """


class Slurm:
    """The controller is authoritative for the jobs that it remembers. Accounting, where there is any, is asked only
    about older ones: for a while it reports a job that is restarted after a node failure as ended.
    """

    def states(self, ids: Sequence[str]) -> dict[str, str]:
        queued = self._queued(ids)
        own_or_array = {id: queued.get(id) or queued.get(id.partition("_")[0]) for id in ids}  # a cancelled array
        found = {id: state for id, state in own_or_array.items() if state}
        older = self._accounted([id for id in ids if id not in found])
        return {id: state for id, state in older.items() if id in ids} | found

    def cancel(self, ids: Sequence[str]) -> str:
        answer = _ask("scancel", *ids) if ids else None
        return (answer.stderr.strip() or f"exit code {answer.returncode}") if answer and answer.returncode else ""

    def longest_array(self) -> int:
        """How many jobs an array may have; SLURM's default where SLURM cannot be asked."""
        try:
            printed = _ask("scontrol", "show", "config").stdout
        except SchedulerUnavailable:
            printed = ""
        found = re.search(r"^MaxArraySize\s*=\s*(\d+)", printed, re.MULTILINE)
        return max(1, int(found[1])) if found else _MAX_ARRAY_SIZE

    def _queued(self, ids: Sequence[str]) -> dict[str, str]:
        if not ids:
            return {}
        jobs = ",".join(sorted({id.partition("_")[0] for id in ids}))
        answer = _ask("squeue", "--noheader", "--array", "--states=all", "--format=%i|%T", f"--jobs={jobs}")
        if answer.returncode and "Invalid job id" not in answer.stderr:
            raise SchedulerUnavailable(answer.stderr.strip() or f"squeue exited with code {answer.returncode}")
        return _pairs(answer.stdout)

    def _accounted(self, ids: Sequence[str]) -> dict[str, str]:
        """Empty where there is no accounting."""
        if not ids or shutil.which("sacct") is None:
            return {}
        answer = _ask("sacct", "-X", "--noheader", "--parsable2", "--format=JobID,State", f"--jobs={','.join(ids)}")
        return _pairs(answer.stdout)


class Local:
    """Each job is a shell that runs submitit's controller once the jobs before it have ended, known by its process
    id. An id that the system has reused belongs to a process whose command line lacks the sweep folder. The system
    does not remember which jobs were cancelled, so a file marks them.
    """

    def __init__(self, folder: Path) -> None:
        self._marks = folder / SUBMITIT
        self._names = {str(folder), str(folder.resolve())}

    def states(self, ids: Sequence[str]) -> dict[str, str]:
        cancelled = {id: "CANCELLED" for id in ids if self._cancel_mark(id).exists()}
        return cancelled | {pid: "RUNNING" for pid, _ in self._processes() if pid in ids}

    def cancel(self, ids: Sequence[str]) -> str:
        processes = self._processes()
        controllers = {parent: pid for pid, parent in processes if parent in ids}
        for id in ids:
            if id in dict(processes):
                with suppress(ProcessLookupError):
                    os.kill(int(controllers.get(id, id)), signal.SIGTERM)
                    self._marks.mkdir(exist_ok=True)
                    self._cancel_mark(id).touch()
        return ""

    def _cancel_mark(self, id: str) -> Path:
        return self._marks / f"{id}.cancelled"

    def _processes(self) -> list[tuple[str, str]]:
        """Process id and parent id of all processes of this sweep."""
        listed = _ask("ps", "-ww", "-A", "-o", "pid=,ppid=,args=").stdout
        rows = (line.split(maxsplit=2) for line in listed.splitlines())
        return [(row[0], row[1]) for row in rows if len(row) == 3 and any(name in row[2] for name in self._names)]


def scheduler_of(kind: str, folder: Path) -> Scheduler:
    """The scheduler of a sweep in `folder`, by the name in its record."""
    return Slurm() if kind == "slurm" else Local(folder)


def _ask(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=_ANSWER_S, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        raise SchedulerUnavailable(str(error)) from error


def _pairs(answer: str) -> dict[str, str]:
    rows = (line.strip().split("|") for line in answer.splitlines())
    return {row[0]: row[1].split()[0] for row in rows if len(row) == 2 and row[1]}
