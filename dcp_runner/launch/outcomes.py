"""How a rank failed, and how its process ended: records that ranks write into the folder of their attempt."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dcp_runner.common.errors import UserError

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
LINGER_S = 2.0
"""How long a rank whose error tells of a peer stays for the records of the others."""


@dataclass(frozen=True)
class FailureNote:
    """How a rank failed, in its own words."""

    rank: int
    host: str
    pid: int
    type: str
    message: str
    traceback: str
    time: float
    expected: bool = False
    """Whether the message says it all, so that the traceback is not shown."""

    @property
    def is_consequence(self) -> bool:
        return any(mark in self.type or mark in self.message for mark in _CONSEQUENCES) or self.is_wait_in_vain

    @property
    def is_wait_in_vain(self) -> bool:
        return any(mark in self.message for mark in _IN_VAIN)


@dataclass(frozen=True)
class RankExit:
    """How a rank's process ended, as its parent saw it."""

    rank: int
    code: int
    """Negative: the number of the signal it died by."""
    by_launcher: bool = False
    """Whether the launcher ended it, after another rank had failed."""
    seen: bool = True
    """False: nobody saw its end; it left no note, so it must have died by a signal."""


@dataclass(frozen=True)
class RunResult:
    """How all ranks of a run ended."""

    exits: Sequence[RankExit]
    """In the order of their ends."""
    stopped_by: int | None = None
    """The signal that the launcher was given and has passed on."""
    outcomes: Sequence[FailureNote] = ()
    """Of the ranks that failed."""

    @property
    def exit_code(self) -> int:
        """Of the whole run: 0, 1 for a failure, 128 + N where all ranks left on signal N."""
        codes = {exit.code for exit in self.exits if not (exit.by_launcher and self.stopped_by)}
        if codes == {0} or (len(codes) == 1 and min(codes) > 128):
            return codes.pop()
        return 1 if codes or not self.stopped_by else 128 + self.stopped_by


@dataclass(frozen=True)
class ExitNote:
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


def failure_note(error: BaseException, rank: int) -> FailureNote:
    """The note of a rank that failed with this error."""
    return FailureNote(
        rank=rank,
        host=socket.gethostname(),
        pid=os.getpid(),
        type=type(error).__name__,
        message=str(error),
        traceback="".join(traceback.format_exception(error)),
        time=time.time(),
        expected=isinstance(error, UserError),
    )


def write_exit_note(folder: Path, rank: int, code: int) -> None:
    """The last thing that a rank does."""
    _write(folder / f"left-{rank:05d}.json", asdict(ExitNote(code, time.time())))


def read_exit_notes(folder: Path) -> dict[int, ExitNote]:
    """The notes of all ranks that left one."""
    found = {int(path.stem.removeprefix("left-")): path for path in folder.glob("left-*.json")}
    return {rank: ExitNote(**json.loads(path.read_text(encoding="utf-8"))) for rank, path in found.items()}


def write_failure_note(folder: Path, outcome: FailureNote) -> None:
    """Write down how a rank failed."""
    _write(folder / f"rank-{outcome.rank:05d}.json", asdict(outcome))


def wait_for_failure_notes(folder: Path, ranks: int) -> None:
    """After an error that tells of a peer: let the other ranks note theirs before anyone leaves. A launcher answers
    that with signals, which wake up a rank that was stopped; until then it is the one that has nothing to say.
    """
    deadline = time.monotonic() + LINGER_S
    while time.monotonic() < deadline and len(list(folder.glob("rank-*.json"))) < ranks:
        time.sleep(0.25)


def _write(path: Path, note: dict[str, Any]) -> None:
    """In one step."""
    beside = path.with_suffix(".tmp")
    beside.write_text(json.dumps(note, indent=1), encoding="utf-8")
    beside.replace(path)


def read_failure_notes(folder: Path) -> list[FailureNote]:
    """The notes of all ranks that wrote one."""
    return [FailureNote(**json.loads(path.read_text(encoding="utf-8"))) for path in sorted(folder.glob("rank-*.json"))]
