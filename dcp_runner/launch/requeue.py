"""Going on in a new start of the same job: what rank 0 asks the scheduler for after all ranks have saved and stopped,
before any of them leaves.

A notice (USR1, USR2) says that the time is nearly over. SIGTERM may be a preemption, somebody's `scancel`, or the end
of a requeue that was asked for elsewhere: then SLURM has decided about the job already, and that stands.
"""

from __future__ import annotations

import logging
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from dcp_runner.common.signals import NOTICES, STOP_SIGNALS

log = logging.getLogger(__name__)
RESTARTS = "DCP_RUNNER_RESTARTS"
"""How often a local job has been started again; SLURM tells it for its own."""
RUN_AGAIN = 144
"""Submitit's controller of local jobs starts a job that leaves with this code once more."""
_NOTICED = {128 + number for number in NOTICES}
_STOPPED = {128 + signal.SIGTERM} | _NOTICED
_ANSWER_S = 60


def restarts(env: Mapping[str, str]) -> int:
    """How often this job has been started before."""
    return int(env.get(RESTARTS) or env.get("SLURM_RESTART_COUNT") or 0)


def requeue_if_stopped(code: int, limit: int, env: Mapping[str, str]) -> int:
    """Ask for another start of this job if it was stopped by its scheduler, at most `limit` times: the exit code to
    leave with.
    """
    executor = env.get("SUBMITIT_EXECUTOR") or ("slurm" if "SLURM_JOB_ID" in env and "SLURM_PROCID" in env else None)
    if executor is None or code not in _STOPPED or (executor == "local" and code not in _NOTICED):
        return code
    if restarts(env) >= limit:
        log.warning(
            "NOT REQUEUED: the job was started again %d times already, as often as resources.requeues allows. "
            "Its checkpoint is committed: the same command goes on from there",
            restarts(env),
        )
        return code
    if executor == "local":
        return RUN_AGAIN
    with _undisturbed():
        _requeue(_name(env))
    return code


def _name(env: Mapping[str, str]) -> str:
    """One job of an array has the id of the whole array as its own."""
    array = env.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{env['SLURM_ARRAY_TASK_ID']}" if array else env["SLURM_JOB_ID"]


def _requeue(job: str) -> None:
    answer = _told("squeue", "--noheader", "--format=%T", f"--jobs={job}")
    if answer.returncode == 0 and answer.stdout.strip() != "RUNNING":
        log.info(
            "not requeued by us: SLURM has decided about job %s (%s)", job, answer.stdout.strip() or "it has ended"
        )
        return
    answer = _told("scontrol", "requeue", job)
    if answer.returncode:
        log.error(
            "NOT REQUEUED: SLURM refuses it for job %s (%s). Its checkpoint is committed: the same command goes on "
            "from there",
            job,
            answer.stderr.strip() or f"exit code {answer.returncode}",
        )
    else:
        log.info("REQUEUED job %s: it goes on at the next step when SLURM starts it again", job)


def _told(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=_ANSWER_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 1, "", str(error))


@contextmanager
def _undisturbed() -> Iterator[None]:
    """A requeue sends SIGTERM to all processes of the job, and the one that asks for it is among them."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
