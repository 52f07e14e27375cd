"""Which rank failed first. Each rank that fails writes down how; the launcher weighs those notes and the exit codes.

The order: a rank that was killed or crashed (it could not write a note, and no other rank's failure does that to it),
then the earliest note that is not a mere consequence of another rank's death, then any other end without a note (a
library that aborts may do so because a peer is gone), then the earliest consequence; where that is a wait in vain, the
ranks that did not wait are to blame. A rank that the launcher itself ended comes last of all.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dcp_runner.common.run_dir import RunDir
from dcp_runner.launch.outcomes import LINGER_S, FailureNote, RankExit, RunResult

_SOURCE = re.compile(r"^\[\S*\] ")
_CRASHES = (signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)


@dataclass(frozen=True)
class FirstFailure:
    """The first failure of a run."""

    rank: int
    headline: str
    details: str = ""


def first_failure(exits: Sequence[RankExit], outcomes: Sequence[FailureNote]) -> FirstFailure | None:
    """The failure that started it all; `exits` in the order of their ends. None: every rank ended well."""
    noted = {outcome.rank for outcome in outcomes}
    own_causes = sorted((o for o in outcomes if not o.is_consequence), key=lambda o: o.time)
    consequences = sorted((o for o in outcomes if o.is_consequence), key=lambda o: o.time)
    unnoted = [e for e in exits if e.code != 0 and e.rank not in noted]
    for exit in unnoted:
        if -exit.code in _CRASHES and not exit.by_launcher:
            return _died(exit)
    if own_causes:
        return _told(own_causes[0])
    for exit in unnoted:
        if not exit.by_launcher:
            return _died(exit)
    for waited in (outcome for outcome in consequences if outcome.is_wait_in_vain):
        there = {outcome.rank for outcome in consequences if outcome.time < waited.time + LINGER_S / 2}
        if absent := sorted({exit.rank for exit in exits} - there):
            return _absent(absent, waited)
    if consequences:
        return _told(consequences[0])
    return _died(unnoted[0]) if unnoted else None


def report(ended: RunResult, outcomes: Sequence[FailureNote], run_dir: Path) -> list[str]:
    """What a launcher says about a run that did not end well; the last line names the first failure."""
    first = first_failure(ended.exits, outcomes)
    if first is None:
        return []
    others = [str(e.rank) for e in sorted(ended.exits, key=lambda e: e.rank) if e.code and e.rank != first.rank]
    lines = [first.details.rstrip()] if first.details else []
    if others:
        lines.append(f"ended after it: rank {', '.join(others)}")
    return [*lines, f"log: {RunDir(run_dir).log_file(first.rank)}", f"FAILED: {first.headline}"]


def console_summary(outcome: FailureNote) -> str:
    """What a rank itself says on the console, where no launcher of ours looks at all of them."""
    tag = f"[rank {outcome.rank}@{outcome.host}]"
    shown = outcome.expected or outcome.is_consequence
    text = f"FAILED: {outcome.type}: {outcome.message}" if shown else f"FAILED\n{outcome.traceback.rstrip()}"
    return "\n".join(f"{tag} {line}" for line in text.splitlines())


def _told(outcome: FailureNote) -> FirstFailure:
    if outcome.expected:
        return FirstFailure(outcome.rank, outcome.message)
    headline = f"rank {outcome.rank} ({outcome.host}) raised {outcome.type}: {outcome.message}"
    return FirstFailure(outcome.rank, headline, outcome.traceback)


def _absent(ranks: Sequence[int], waited: FailureNote) -> FirstFailure:
    names = ", ".join(map(str, ranks))
    where = f"rank {waited.rank} ({waited.host})"
    said = _SOURCE.sub("", waited.message)
    headline = f"rank {names} did not take part, stopped or busy with something else; {where} waited in vain: {said}"
    return FirstFailure(ranks[0], headline, waited.traceback)


def _died(exit: RankExit) -> FirstFailure:
    if exit.code >= 0:
        return FirstFailure(exit.rank, f"rank {exit.rank} left with exit code {exit.code}")
    name = signal.Signals(-exit.code).name if -exit.code in set(signal.Signals) else f"signal {-exit.code}"
    if exit.by_launcher:
        return FirstFailure(exit.rank, f"rank {exit.rank} did not end by itself")
    if not exit.seen:
        return FirstFailure(
            exit.rank, f"rank {exit.rank} died without a word (out of memory, as a rule, if nobody killed it)"
        )
    likely = " (out of memory, as a rule, if nobody sent it)" if name == "SIGKILL" else ""
    return FirstFailure(exit.rank, f"rank {exit.rank} was killed by {name}{likely}")
