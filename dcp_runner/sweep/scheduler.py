"""What the scheduler says of jobs, and what it is told: SLURM, or the processes of this machine."""

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
    """The scheduler cannot be asked now; that says nothing about the jobs."""


class Scheduler(Protocol):
    """Where the jobs of a sweep run."""

    def words(self, ids: Sequence[str]) -> dict[str, str]:
        """SLURM's word for the state of each job; one that is not there is not known any more.

        Raises:
            SchedulerUnavailable: the scheduler does not answer.
        """

    def cancel(self, ids: Sequence[str]) -> str:
        """End these jobs: what is refused, in the scheduler's words; empty: nothing.

        Raises:
            SchedulerUnavailable: the scheduler does not answer.
        """


class Slurm:
    """The controller knows the truth about a job while it remembers it. Accounting, where there is any, is asked about
    older ones only: of a job that is started again after a node failure it says for a while that it has ended.
    """

    def words(self, ids: Sequence[str]) -> dict[str, str]:
        queued = self._queued(ids)
        whole = {id: queued.get(id) or queued.get(id.partition("_")[0]) for id in ids}  # an array cancelled as a whole
        found = {id: word for id, word in whole.items() if word}
        older = self._accounted([id for id in ids if id not in found])
        return {id: word for id, word in older.items() if id in ids} | found

    def cancel(self, ids: Sequence[str]) -> str:
        answer = _ask("scancel", *ids) if ids else None
        return (answer.stderr.strip() or f"exit code {answer.returncode}") if answer and answer.returncode else ""

    def longest_array(self) -> int:
        """How many jobs an array may have; SLURM's default where there is no SLURM to ask."""
        try:
            told = _ask("scontrol", "show", "config").stdout
        except SchedulerUnavailable:
            told = ""
        found = re.search(r"^MaxArraySize\s*=\s*(\d+)", told, re.MULTILINE)
        return max(1, int(found[1])) if found else _MAX_ARRAY_SIZE

    def _queued(self, ids: Sequence[str]) -> dict[str, str]:
        if not ids:
            return {}
        jobs = ",".join(sorted({id.partition("_")[0] for id in ids}))
        answer = _ask("squeue", "--noheader", "--array", "--states=all", "--format=%i|%T", f"--jobs={jobs}")
        if answer.returncode and "Invalid job id" not in answer.stderr:
            raise SchedulerUnavailable(answer.stderr.strip() or f"squeue leaves with code {answer.returncode}")
        return _pairs(answer.stdout)

    def _accounted(self, ids: Sequence[str]) -> dict[str, str]:
        """Nothing where there is no accounting."""
        if not ids or shutil.which("sacct") is None:
            return {}
        answer = _ask("sacct", "-X", "--noheader", "--parsable2", "--format=JobID,State", f"--jobs={','.join(ids)}")
        return _pairs(answer.stdout)


class Local:
    """Jobs are shells that become controllers of submitit in their turn, known by process id; a number that is used
    again is not one of ours. Nobody else remembers which were cancelled, so that is noted in a file.
    """

    def __init__(self, folder: Path) -> None:
        self._notes = folder / SUBMITIT
        self._names = {str(folder), str(folder.resolve())}

    def words(self, ids: Sequence[str]) -> dict[str, str]:
        cancelled = {id: "CANCELLED" for id in ids if self._note(id).exists()}
        return cancelled | {pid: "RUNNING" for pid, _ in self._processes() if pid in ids}

    def cancel(self, ids: Sequence[str]) -> str:
        processes = self._processes()
        controllers = {parent: pid for pid, parent in processes if parent in ids}
        for id in ids:
            if id in dict(processes):
                with suppress(ProcessLookupError):
                    os.kill(int(controllers.get(id, id)), signal.SIGTERM)
                    self._notes.mkdir(exist_ok=True)
                    self._note(id).touch()
        return ""

    def _note(self, id: str) -> Path:
        return self._notes / f"{id}.cancelled"

    def _processes(self) -> list[tuple[str, str]]:
        """Id and parent's id of all processes of this sweep."""
        listed = _ask("ps", "-ww", "-A", "-o", "pid=,ppid=,args=").stdout
        rows = (line.split(maxsplit=2) for line in listed.splitlines())
        return [(row[0], row[1]) for row in rows if len(row) == 3 and any(name in row[2] for name in self._names)]


def scheduler_of(kind: str, folder: Path) -> Scheduler:
    """Of a sweep in `folder`, by the name that its record has."""
    return Slurm() if kind == "slurm" else Local(folder)


def _ask(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=_ANSWER_S, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        raise SchedulerUnavailable(str(error)) from error


def _pairs(answer: str) -> dict[str, str]:
    rows = (line.strip().split("|") for line in answer.splitlines())
    return {row[0]: row[1].split()[0] for row in rows if len(row) == 2 and row[1]}
