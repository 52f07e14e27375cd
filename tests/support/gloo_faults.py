"""Faults at chosen points of a save or load, on a chosen rank."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gloo_ranks import Rank

from dcp_runner.checkpoint.sync.comm import Comm

Point = tuple[str, int]
"""The n-th call of a phase, from 1."""

SAVE: tuple[Point, ...] = (
    ("plan", 1), ("plan", 2), ("plan", 3), ("plan", 4), ("stage", 1), ("verify", 1), ("verify", 2), ("write", 1), ("write", 2),
    ("manifest", 1), ("commit", 1),
)  # fmt: skip
OPEN: tuple[Point, ...] = tuple(("open", number) for number in range(1, 6))
REHEARSE: tuple[Point, ...] = (("plan", 1), ("plan", 2), ("verify", 1), ("verify", 2))
LOAD: tuple[Point, ...] = (("find", 1), ("find", 2), ("compare", 1), ("read", 1), ("apply", 1))


class FaultyComm(Comm):
    """A Comm that counts its calls, and does something of its own before or after the work of one of them."""

    calls: list[str]
    fault: tuple[Point, str, Callable[[], Any]] | None = None

    def __init__(self, *about: Any, **more: Any) -> None:
        super().__init__(*about, **more)
        self.calls = []

    def arm(self, point: Point, when: str, fault: Callable[[], Any]) -> None:
        """Count from here on, and call `fault` at that point (`before` or `after` the work)."""
        self.calls, self.fault = [], (point, when, fault)

    def _run(self, phase: str, work: Callable[[], Any], payload: bool = False) -> Any:
        self.calls.append(phase)
        here = (phase, self.calls.count(phase))

        def work_and_fault() -> Any:
            self._happen(here, "before")
            value = work()
            self._happen(here, "after")
            return value

        return super()._run(phase, work_and_fault, payload)

    def _happen(self, point: Point, when: str) -> None:
        if self.fault and self.fault[:2] == (point, when):
            what = self.fault[2]
            self.fault = None
            what()


class Injected(Exception):
    """An error that a test makes."""


def fail() -> None:
    raise Injected("made by the test")


def end_host(rank: Rank, what: signal.Signals) -> None:
    """Stop or kill the process that hosts the store, and return when it does nothing any more."""
    os.kill(rank.host_pid, what)
    stat = Path(f"/proc/{rank.host_pid}/stat")
    while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] not in "TZX":
        os.sched_yield()


def effect(kind: str, rank: Rank) -> Callable[[], Any]:
    """What a fault of this kind does on the rank where it happens."""
    itself = os.getpid()
    return {
        "raise": fail,
        "stop": lambda: os.kill(itself, signal.SIGSTOP),
        "kill": lambda: os.kill(itself, signal.SIGKILL),
        "stop the store": lambda: end_host(rank, signal.SIGSTOP),
        "kill the store": lambda: end_host(rank, signal.SIGKILL),
    }[kind]
