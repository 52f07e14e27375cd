"""What has become of a job, from what its scheduler says and from what its ranks have left behind.

A job is done when every rank has left with 0 and the scheduler does not contradict. Nothing else is a success: not a
scheduler's COMPLETED alone, not a result of rank 0 alone.
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
"""Words that tell nothing beyond what the ranks tell."""
_STOPPED = {128 + number for number in STOP_SIGNALS}


_SRUN = re.compile(r"^srun: error: (\S+): tasks? (\d+)\S*: (?!Exited with exit code)(.+)$", re.MULTILINE)


def srun_signal_death(printed: str) -> tuple[int, str] | None:
    """The first task that srun has seen die by a signal, and how it says that; it kills the others for it."""
    found = _SRUN.search(printed)
    return (int(found[2]), f"rank {found[2]} ({found[1]}) died: {found[3]}, says srun") if found else None


def judge(
    word: str | None,
    ranks: int,
    left: Mapping[int, ExitRecord],
    outcomes: Sequence[FailureRecord],
    seen: tuple[int, str] | None = None,
) -> tuple[JobState, str]:
    """State and reason of a job. `word` is the scheduler's (None: it does not know the job any more); `left` and
    `outcomes` are the notes of its last start, `seen` is what srun has seen of a rank that left none.
    """
    if word in PENDING:
        return JobState.waiting, ""
    if word in RUNNING:
        return JobState.running, ""
    if word in (None, "COMPLETED") and len(left) == ranks and all(note.code == 0 for note in left.values()):
        return JobState.done, ""
    failure = first(ranks, left, outcomes)
    if seen is not None and seen[0] not in left and not _own_cause(left, outcomes):
        reason = seen[1]
    elif failure is not None and left:
        reason = failure.headline
    else:
        reason = "all ranks left well" if left else "no rank left a word"
    told = reason if word in _PLAIN else f"{word}: {reason}"
    if word == "CANCELLED":
        return JobState.cancelled, told if any(not outcome.is_consequence for outcome in outcomes) else ""
    return JobState.failed, told


def first(ranks: int, left: Mapping[int, ExitRecord], outcomes: Sequence[FailureRecord]) -> FirstFailure | None:
    """The failure that started it all."""
    return first_failure(_exits(ranks, left, outcomes), outcomes)


def _own_cause(left: Mapping[int, ExitRecord], outcomes: Sequence[FailureRecord]) -> bool:
    """Whether a rank has failed by itself: its error tells of no dead peer, or it has left badly without an error."""
    noted = {outcome.rank for outcome in outcomes}
    silent = any(note.code and note.code not in _STOPPED and rank not in noted for rank, note in left.items())
    return silent or any(not outcome.is_consequence or outcome.is_timeout for outcome in outcomes)


def _exits(ranks: int, left: Mapping[int, ExitRecord], outcomes: Sequence[FailureRecord]) -> list[RankExit]:
    """How every rank ended. One without a note was killed: by srun, if another one had a failure of its own."""
    after = _own_cause(left, outcomes)
    missing = [rank for rank in range(ranks) if rank not in left]
    wordless = [RankExit(rank, -signal.SIGKILL, by_launcher=after, seen=False) for rank in missing]
    return wordless + [RankExit(rank, note.code) for rank, note in sorted(left.items(), key=lambda item: item[1].time)]
