"""Which rank failed first, judged from the records that the ranks wrote and from their exit codes.

In this order:
1. a rank that was killed or crashed: it could not write a record, and no other rank's failure does that to it
2. the earliest failure that is not the consequence of another rank's
3. any other exit without a record: a library that aborts may do so because a peer is gone
4. a rank that did not reach a collective for which another one timed out
5. the earliest consequence
6. a rank that the launcher itself killed
"""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dcp_runner.common.run_dir import RunDir
from dcp_runner.launch.outcomes import RECORDS_WAIT_S, FailureRecord, RankExit, RunResult

_SOURCE = re.compile(r"^\[\S*\] ")
_CRASHES = (signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)


@dataclass(frozen=True)
class FirstFailure:
    """The first failure of a run."""

    rank: int
    headline: str
    details: str = ""


def first_failure(exits: Sequence[RankExit], failures: Sequence[FailureRecord]) -> FirstFailure | None:
    """The failure that caused all others; `exits` in the order of their ends. None: every rank ended well."""
    recorded = {failure.rank for failure in failures}
    own_causes = sorted((f for f in failures if not f.is_consequence), key=lambda f: f.time)
    consequences = sorted((f for f in failures if f.is_consequence), key=lambda f: f.time)
    unrecorded = [exit for exit in exits if exit.code != 0 and exit.rank not in recorded]
    for exit in unrecorded:
        if -exit.code in _CRASHES and not exit.by_launcher:
            return _exited(exit)
    if own_causes:
        return _raised(own_causes[0])
    for exit in unrecorded:
        if not exit.by_launcher:
            return _exited(exit)
    for timeout in (failure for failure in consequences if failure.is_timeout):
        in_time = {failure.rank for failure in consequences if failure.time < timeout.time + RECORDS_WAIT_S / 2}
        if absent := sorted({exit.rank for exit in exits} - in_time):
            return _absent(absent, timeout)
    if consequences:
        return _raised(consequences[0])
    return _exited(unrecorded[0]) if unrecorded else None


def report(result: RunResult, run_dir: Path) -> list[str]:
    """What a launcher prints about a run that did not end well; the last line names the first failure."""
    first = first_failure(result.exits, result.failures)
    if first is None:
        return []
    others = [str(e.rank) for e in sorted(result.exits, key=lambda e: e.rank) if e.code and e.rank != first.rank]
    lines = [first.details.rstrip()] if first.details else []
    if others:
        lines.append(f"ended because of it: rank {', '.join(others)}")
    return [*lines, f"log: {RunDir(run_dir).log_file(first.rank)}", f"FAILED: {first.headline}"]


def console_summary(failure: FailureRecord) -> str:
    """What a rank itself prints where no launcher of ours sees all of them."""
    tag = f"[rank {failure.rank}@{failure.host}]"
    short = failure.expected or failure.is_consequence
    text = f"FAILED: {failure.type}: {failure.message}" if short else f"FAILED\n{failure.traceback.rstrip()}"
    return "\n".join(f"{tag} {line}" for line in text.splitlines())


def _raised(failure: FailureRecord) -> FirstFailure:
    if failure.expected:
        return FirstFailure(failure.rank, failure.message)
    headline = f"rank {failure.rank} ({failure.host}) raised {failure.type}: {failure.message}"
    return FirstFailure(failure.rank, headline, failure.traceback)


def _absent(ranks: Sequence[int], timeout: FailureRecord) -> FirstFailure:
    names = ", ".join(map(str, ranks))
    waiting = f"rank {timeout.rank} ({timeout.host}) timed out waiting for {'them' if len(ranks) > 1 else 'it'}"
    message = _SOURCE.sub("", timeout.message)
    headline = f"rank {names} did not reach a collective (hung or stopped); {waiting}: {message}"
    return FirstFailure(ranks[0], headline, timeout.traceback)


def _exited(exit: RankExit) -> FirstFailure:
    return FirstFailure(exit.rank, f"rank {exit.rank} {_how(exit)}")


def _how(exit: RankExit) -> str:
    if exit.code >= 0:
        return f"exited with code {exit.code}"
    if exit.by_launcher:
        return "was killed by the launcher"
    if not exit.seen:
        return "was terminated without reporting an error (usually out of memory)"
    name = signal.Signals(-exit.code).name if -exit.code in set(signal.Signals) else f"signal {-exit.code}"
    likely = " (usually out of memory, if no one sent it)" if name == "SIGKILL" else ""
    return f"was killed by {name}{likely}"
