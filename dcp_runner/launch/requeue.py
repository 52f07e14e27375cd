"""Requeueing a job that its scheduler stopped: rank 0 requests it after all ranks have saved, before any of them exits.

A preemption signal (USR1, USR2) means that the time limit is near. SIGTERM may be a preemption, an `scancel`, or part
of a requeue requested elsewhere: then SLURM has already decided about the job, and its decision is respected.
"""

from __future__ import annotations

import logging
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from dcp_runner.common.signals import PREEMPTION_SIGNALS, STOP_SIGNALS

log = logging.getLogger(__name__)
RESTARTS = "DCP_RUNNER_RESTARTS"
"""How often a local job has been restarted; SLURM has a variable of its own."""
RUN_AGAIN = 144
"""Submitit's controller of local jobs restarts a job that exits with this code."""
_PREEMPTED = {128 + number for number in PREEMPTION_SIGNALS}
_STOPPED = {128 + signal.SIGTERM} | _PREEMPTED
_TIMEOUT_S = 60


def restarts(env: Mapping[str, str]) -> int:
    """How often this job has been restarted."""
    return int(env.get(RESTARTS) or env.get("SLURM_RESTART_COUNT") or 0)


def requeue_if_stopped(code: int, limit: int, env: Mapping[str, str]) -> int:
    """Request a restart of this job if its scheduler stopped it, at most `limit` times. Returns the exit code."""
    executor = env.get("SUBMITIT_EXECUTOR") or ("slurm" if "SLURM_JOB_ID" in env and "SLURM_PROCID" in env else None)
    if executor is None or code not in _STOPPED or (executor == "local" and code not in _PREEMPTED):
        return code
    if restarts(env) >= limit:
        log.warning(
            "NOT REQUEUED: the job has been restarted %d times, the limit set by resources.requeues. "
            "Its checkpoint is committed: run the same command to continue from it",
            restarts(env),
        )
        return code
    if executor == "local":
        return RUN_AGAIN
    with _ignoring_stop_signals():
        _requeue(_name(env))
    return code


def _name(env: Mapping[str, str]) -> str:
    """SLURM's name of this job; a job of an array may have the id of the array as its own."""
    array = env.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{env['SLURM_ARRAY_TASK_ID']}" if array else env["SLURM_JOB_ID"]


def _requeue(job: str) -> None:
    answer = _ask("squeue", "--noheader", "--format=%T", f"--jobs={job}")
    if answer.returncode == 0 and answer.stdout.strip() != "RUNNING":
        state = answer.stdout.strip() or "ENDED"
        log.info("not requesting a requeue: SLURM already reports job %s as %s", job, state)
        return
    answer = _ask("scontrol", "requeue", job)
    if answer.returncode:
        log.error(
            "NOT REQUEUED: SLURM refused to requeue job %s (%s). Its checkpoint is committed: run the same command to "
            "continue from it",
            job,
            answer.stderr.strip() or f"exit code {answer.returncode}",
        )
    else:
        log.info("REQUEUED job %s: it continues at the next step once SLURM restarts it", job)


def _ask(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 1, "", str(error))


@contextmanager
def _ignoring_stop_signals() -> Iterator[None]:
    """A requeue sends SIGTERM to all processes of the job, including the one that requests it."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
