"""Who failed first. Each rank that fails writes down how; the launcher weighs those notes and the exit codes.

The order: a rank that was killed or crashed (it could not write a note, and no other rank's failure does that to it),
then the earliest note that is not a mere consequence of another rank's death, then any other end without a note (a
library that aborts may do so because a peer is gone), then the earliest consequence; where that is a wait in vain, the
ranks that did not wait are to blame. A rank that the launcher itself ended comes last of all.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dcp_runner.launch.folder import log_file

_CONSEQUENCES = (
    "DistBackendError",
    "DistNetworkError",
    "DistStoreError",
    "gloo/transport",
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "NCCL communicator was aborted",
)
"""In the type or the text of an error: it tells of a peer that is gone, not of this rank."""
_IN_VAIN = ("Timed out waiting", "collective operation timeout")
"""In the text of gloo's and NCCL's errors: a peer is there, and does not take part."""
_LINGER_S = 2.0
_SOURCE = re.compile(r"^\[\S*\] ")
_CRASHES = (signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)


@dataclass(frozen=True)
class Outcome:
    """How a rank failed, in its own words."""

    rank: int
    host: str
    pid: int
    type: str
    message: str
    traceback: str
    time: float
    expected: bool = False
    """Whether the message says it all, so that nobody needs the traceback."""

    @property
    def is_consequence(self) -> bool:
        return any(mark in self.type or mark in self.message for mark in _CONSEQUENCES) or self.is_wait_in_vain

    @property
    def is_wait_in_vain(self) -> bool:
        return any(mark in self.message for mark in _IN_VAIN)


@dataclass(frozen=True)
class Exit:
    """How a rank's process ended, as its parent saw it."""

    rank: int
    code: int
    """Negative: the number of the signal it died by."""
    by_launcher: bool = False
    """Whether the launcher ended it, after another rank had failed."""
    seen: bool = True
    """False: nobody saw its end; it left no note, so it must have died by a signal."""


@dataclass(frozen=True)
class Ended:
    """How all ranks of a run ended."""

    exits: Sequence[Exit]
    """In the order of their ends."""
    stopped_by: int | None = None
    """The signal that the launcher was given and has passed on."""
    outcomes: Sequence[Outcome] = ()
    """Of the ranks that failed."""

    @property
    def exit_code(self) -> int:
        """Of the whole run: 0, 1 for a failure, 128 + N where all ranks left on signal N."""
        codes = {exit.code for exit in self.exits if not (exit.by_launcher and self.stopped_by)}
        if codes == {0} or (len(codes) == 1 and min(codes) > 128):
            return codes.pop()
        return 1 if codes or not self.stopped_by else 128 + self.stopped_by


@dataclass(frozen=True)
class Failure:
    """The first failure of a run."""

    rank: int
    headline: str
    details: str = ""


@dataclass(frozen=True)
class Left:
    """The note of a rank that has come to its end by itself."""

    code: int
    time: float


def exit_code(error: BaseException | None) -> int:
    """Of a process that ends with this error."""
    if error is None:
        return 0
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    return 128 + signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1


def outcome_of(error: BaseException, rank: int, *, expected: bool = False) -> Outcome:
    """The note of a rank that failed with this error."""
    return Outcome(
        rank=rank,
        host=socket.gethostname(),
        pid=os.getpid(),
        type=type(error).__name__,
        message=str(error),
        traceback="".join(traceback.format_exception(error)),
        time=time.time(),
        expected=expected,
    )


def note_leaving(folder: Path, rank: int, code: int) -> None:
    """The last thing that a rank does."""
    _write(folder / f"left-{rank:05d}.json", asdict(Left(code, time.time())))


def left_notes(folder: Path) -> dict[int, Left]:
    """The notes of all ranks that left one."""
    found = {int(path.stem.removeprefix("left-")): path for path in folder.glob("left-*.json")}
    return {rank: Left(**json.loads(path.read_text(encoding="utf-8"))) for rank, path in found.items()}


def write(folder: Path, outcome: Outcome) -> None:
    """Write down how a rank failed."""
    _write(folder / f"rank-{outcome.rank:05d}.json", asdict(outcome))


def linger(folder: Path, ranks: int) -> None:
    """After an error that tells of a peer: let the other ranks note theirs before anyone leaves. A launcher answers
    that with signals, which wake up a rank that was stopped; until then it is the one that has nothing to say.
    """
    deadline = time.monotonic() + _LINGER_S
    while time.monotonic() < deadline and len(list(folder.glob("rank-*.json"))) < ranks:
        time.sleep(0.25)


def _write(path: Path, note: dict[str, Any]) -> None:
    """In one step."""
    beside = path.with_suffix(".tmp")
    beside.write_text(json.dumps(note, indent=1), encoding="utf-8")
    beside.replace(path)


def read_all(folder: Path) -> list[Outcome]:
    """The notes of all ranks that wrote one."""
    return [Outcome(**json.loads(path.read_text(encoding="utf-8"))) for path in sorted(folder.glob("rank-*.json"))]


def first_failure(exits: Sequence[Exit], outcomes: Sequence[Outcome]) -> Failure | None:
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
        there = {outcome.rank for outcome in consequences if outcome.time < waited.time + _LINGER_S / 2}
        if absent := sorted({exit.rank for exit in exits} - there):
            return _absent(absent, waited)
    if consequences:
        return _told(consequences[0])
    return _died(unnoted[0]) if unnoted else None


def report(ended: Ended, outcomes: Sequence[Outcome], run_dir: Path) -> list[str]:
    """What a launcher says about a run that did not end well; the last line names the first failure."""
    first = first_failure(ended.exits, outcomes)
    if first is None:
        return []
    others = [str(e.rank) for e in sorted(ended.exits, key=lambda e: e.rank) if e.code and e.rank != first.rank]
    lines = [first.details.rstrip()] if first.details else []
    if others:
        lines.append(f"ended after it: rank {', '.join(others)}")
    return [*lines, f"log: {log_file(run_dir, first.rank)}", f"FAILED: {first.headline}"]


def in_short(outcome: Outcome) -> str:
    """What a rank itself says on the console, where no launcher of ours looks at all of them."""
    tag = f"[rank {outcome.rank}@{outcome.host}]"
    shown = outcome.expected or outcome.is_consequence
    text = f"FAILED: {outcome.type}: {outcome.message}" if shown else f"FAILED\n{outcome.traceback.rstrip()}"
    return "\n".join(f"{tag} {line}" for line in text.splitlines())


def _told(outcome: Outcome) -> Failure:
    if outcome.expected:
        return Failure(outcome.rank, outcome.message)
    headline = f"rank {outcome.rank} ({outcome.host}) raised {outcome.type}: {outcome.message}"
    return Failure(outcome.rank, headline, outcome.traceback)


def _absent(ranks: Sequence[int], waited: Outcome) -> Failure:
    names = ", ".join(map(str, ranks))
    where = f"rank {waited.rank} ({waited.host})"
    said = _SOURCE.sub("", waited.message)
    headline = f"rank {names} did not take part, stopped or busy with something else; {where} waited in vain: {said}"
    return Failure(ranks[0], headline, waited.traceback)


def _died(exit: Exit) -> Failure:
    if exit.code >= 0:
        return Failure(exit.rank, f"rank {exit.rank} left with exit code {exit.code}")
    name = signal.Signals(-exit.code).name if -exit.code in set(signal.Signals) else f"signal {-exit.code}"
    if exit.by_launcher:
        return Failure(exit.rank, f"rank {exit.rank} did not end by itself")
    if not exit.seen:
        return Failure(
            exit.rank, f"rank {exit.rank} died without a word (out of memory, as a rule, if nobody killed it)"
        )
    likely = " (out of memory, as a rule, if nobody sent it)" if name == "SIGKILL" else ""
    return Failure(exit.rank, f"rank {exit.rank} was killed by {name}{likely}")
