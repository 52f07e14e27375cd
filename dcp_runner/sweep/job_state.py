"""The state of a job, judged from what its scheduler reports and from what its ranks have recorded.

A job is done when every rank has exited with 0 and the scheduler does not contradict. Nothing less is a success:
neither a scheduler's COMPLETED alone nor a result of rank 0 alone.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping, Sequence

from dcp_runner.common.signals import STOP_SIGNALS
from dcp_runner.launch.first_failure import FirstFailure, first_failure
from dcp_runner.launch.outcomes import ExitRecord, FailureRecord, RankExit
from dcp_runner.sweep.record import JobState
from dcp_runner.sweep.scheduler import PENDING, RUNNING

_PLAIN = {None, "COMPLETED", "FAILED"}
"""Scheduler states that add nothing to what the ranks have recorded."""
_STOPPED = {128 + number for number in STOP_SIGNALS}
_SRUN = re.compile(r"^srun: error: (\S+): tasks? (\d+)\S*: (?!Exited with exit code)(.+)$", re.MULTILINE)


def srun_signal_death(printed: str) -> tuple[int, str] | None:
    """The first task that srun reports as killed by a signal, for which it kills the others: its rank, and a text."""
    found = _SRUN.search(printed)
    return (int(found[2]), f"rank {found[2]} ({found[1]}) died: {found[3]} (reported by srun)") if found else None


def judge(
    scheduler_state: str | None,
    ranks: int,
    exits: Mapping[int, ExitRecord],
    failures: Sequence[FailureRecord],
    srun_death: tuple[int, str] | None = None,
) -> tuple[JobState, str]:
    """State and reason of a job. `scheduler_state` is None where the scheduler no longer knows the job; `exits` and
    `failures` were recorded by the ranks of its last start; `srun_death` is what srun reports of a rank that recorded
    nothing.
    """
    if scheduler_state in PENDING:
        return JobState.waiting, ""
    if scheduler_state in RUNNING:
        return JobState.running, ""
    all_zero = len(exits) == ranks and all(exit.code == 0 for exit in exits.values())
    if scheduler_state in (None, "COMPLETED") and all_zero:
        return JobState.done, ""
    failure = first_failed(ranks, exits, failures)
    if srun_death is not None and srun_death[0] not in exits and not _has_own_cause(exits, failures):
        reason = srun_death[1]
    elif failure is not None and exits:
        reason = failure.headline
    else:
        reason = "all ranks exited with 0" if exits else "no rank reported an outcome"
    reason = reason if scheduler_state in _PLAIN else f"{scheduler_state}: {reason}"
    if scheduler_state == "CANCELLED":
        return JobState.cancelled, reason if any(not failure.is_consequence for failure in failures) else ""
    return JobState.failed, reason


def first_failed(ranks: int, exits: Mapping[int, ExitRecord], failures: Sequence[FailureRecord]) -> FirstFailure | None:
    """The failure that caused the others; None: there is none."""
    return first_failure(_exits(ranks, exits, failures), failures)


def _has_own_cause(exits: Mapping[int, ExitRecord], failures: Sequence[FailureRecord]) -> bool:
    """Whether a rank failed by itself: its error is not about a dead peer, or it exited with an error code and
    recorded no error.
    """
    recorded = {failure.rank for failure in failures}
    silent = any(exit.code and exit.code not in _STOPPED and rank not in recorded for rank, exit in exits.items())
    return silent or any(not failure.is_consequence or failure.is_timeout for failure in failures)


def _exits(ranks: int, exits: Mapping[int, ExitRecord], failures: Sequence[FailureRecord]) -> list[RankExit]:
    """How every rank ended. One without a record was killed: by srun, if another rank had a failure of its own."""
    by_srun = _has_own_cause(exits, failures)
    missing = [rank for rank in range(ranks) if rank not in exits]
    killed = [RankExit(rank, -signal.SIGKILL, by_launcher=by_srun, seen=False) for rank in missing]
    return killed + [RankExit(rank, exit.code) for rank, exit in sorted(exits.items(), key=lambda item: item[1].time)]
