"""How a rank failed, and how its process exited: records that ranks write into the folder of their attempt."""

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
"""In the type or the text of an error: the cause is a peer that is gone, not this rank."""
_TIMEOUTS = ("Timed out waiting", "collective operation timeout")
"""In the text of gloo's and NCCL's errors: a peer is alive, but did not reach the collective."""
RECORDS_WAIT_S = 2.0
"""How long a rank that failed because of a peer waits for the records of the others before it exits."""


@dataclass(frozen=True)
class FailureRecord:
    """How a rank failed, as it reports itself."""

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
        """Whether another rank's failure caused this one."""
        return any(mark in self.type or mark in self.message for mark in _CONSEQUENCES) or self.is_timeout

    @property
    def is_timeout(self) -> bool:
        """Whether this rank waited for one that did not come."""
        return any(mark in self.message for mark in _TIMEOUTS)


@dataclass(frozen=True)
class ExitRecord:
    """The exit of a rank that ended by itself."""

    code: int
    time: float


@dataclass(frozen=True)
class RankExit:
    """How a rank's process ended, as its parent saw it."""

    rank: int
    code: int
    """Negative: the number of the signal that killed it."""
    by_launcher: bool = False
    """Whether the launcher killed it, after another rank had failed."""
    seen: bool = True
    """False: no parent saw its end, and it has no exit record, so a signal must have killed it."""


@dataclass(frozen=True)
class RunResult:
    """How all ranks of a run ended."""

    exits: Sequence[RankExit]
    """In the order of their ends."""
    stopped_by: int | None = None
    """The signal that the launcher received and passed on."""
    failures: Sequence[FailureRecord] = ()
    """Of the ranks that failed."""

    @property
    def exit_code(self) -> int:
        """Of the whole run: 0, 1 for a failure, 128 + N where all ranks stopped on signal N."""
        codes = {exit.code for exit in self.exits if not (exit.by_launcher and self.stopped_by)}
        if codes == {0} or (len(codes) == 1 and min(codes) > 128):
            return codes.pop()
        return 1 if codes or not self.stopped_by else 128 + self.stopped_by


def exit_code(error: BaseException | None) -> int:
    """Of a process that ends with this error."""
    if error is None:
        return 0
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    return 128 + signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1


def failure_record(error: BaseException, rank: int) -> FailureRecord:
    """The record of a rank that failed with this error."""
    return FailureRecord(
        rank=rank,
        host=socket.gethostname(),
        pid=os.getpid(),
        type=type(error).__name__,
        message=str(error),
        traceback="".join(traceback.format_exception(error)),
        time=time.time(),
        expected=isinstance(error, UserError),
    )


def write_exit_record(folder: Path, rank: int, code: int) -> None:
    """The last thing that a rank does."""
    _write(folder / f"left-{rank:05d}.json", asdict(ExitRecord(code, time.time())))


def read_exit_records(folder: Path) -> dict[int, ExitRecord]:
    """By rank, of all ranks that have one."""
    found = {int(path.stem.removeprefix("left-")): path for path in folder.glob("left-*.json")}
    return {rank: ExitRecord(**json.loads(path.read_text(encoding="utf-8"))) for rank, path in found.items()}


def write_failure_record(folder: Path, failure: FailureRecord) -> None:
    _write(folder / f"rank-{failure.rank:05d}.json", asdict(failure))


def read_failure_records(folder: Path) -> list[FailureRecord]:
    """Of all ranks that have one, in the order of the ranks."""
    files = sorted(folder.glob("rank-*.json"))
    return [FailureRecord(**json.loads(path.read_text(encoding="utf-8"))) for path in files]


def wait_for_failure_records(folder: Path, ranks: int) -> None:
    """After a failure that a peer caused: give all ranks time to write their records before any of them exits. A
    launcher answers an exit with signals, and they wake up a stopped rank; the one without a record until then is the
    stopped one.
    """
    deadline = time.monotonic() + RECORDS_WAIT_S
    while time.monotonic() < deadline and len(list(folder.glob("rank-*.json"))) < ranks:
        time.sleep(0.25)


def _write(path: Path, record: dict[str, Any]) -> None:
    """Atomically."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(record, indent=1), encoding="utf-8")
    temporary.replace(path)
