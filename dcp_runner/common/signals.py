"""Stopping on request: a signal only sets a flag, which the training loop reads at its next step boundary.

Nothing else may happen in a handler: a save is collective, and the signal may have reached only some of the ranks.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterable
from types import FrameType
from typing import Any

PREEMPTION_SIGNALS = (signal.SIGUSR2, signal.SIGUSR1)
"""A scheduler sends one of them some time before it ends the job."""
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, *PREEMPTION_SIGNALS)
"""In order of precedence where ranks have received different ones."""
_SAME_REQUEST_S = 1.0


class StopFlag:
    """Remembers the first stop signal.

    A second SIGINT or SIGTERM means: exit now. A preemption signal never does, however often it comes; and the SIGTERM
    that follows one counts as the first, so the save that is under way completes.

    One Ctrl-C can arrive twice, from the terminal and from the launcher, so a repetition within a second counts as the
    same request. A rank in its own session receives signals only from its launcher and need not wait.
    """

    def __init__(self, numbers: Iterable[int] = STOP_SIGNALS, *, own_session: bool = False) -> None:
        self.signal: int | None = None
        """Number of the signal that asked to stop; None: continue."""
        self.exit_now = False
        """Whether a second signal ended this rank at once, so that it did not stop together with the others."""
        self._numbers = tuple(numbers)
        self._patience = 0.0 if own_session else _SAME_REQUEST_S
        self._first_at: float | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopFlag:
        return self.install()

    def __exit__(self, *exc: object) -> None:
        self.uninstall()

    def install(self) -> StopFlag:
        """Handle its signals in this process (main thread only), starting from what an outer flag has received.
        Idempotent.

        Raises:
            ValueError: not in the main thread.
        """
        for number in self._numbers:
            if number not in self._before:
                outer = _holder(number)
                self._before[number] = signal.signal(number, self._handle)
                if outer is not None and outer.signal is not None:
                    self.signal, self._first_at = outer.signal, outer._first_at
        return self

    def uninstall(self) -> None:
        """Restore the handlers that were there before."""
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.signal = self.signal or number
        if number in PREEMPTION_SIGNALS:
            return
        now = time.monotonic()
        if self._first_at is None:
            self._first_at = now
        elif now - self._first_at >= self._patience:
            self.exit_now = True
            raise SystemExit(128 + number) if number == signal.SIGTERM else KeyboardInterrupt


def pending_signal() -> int | None:
    """The stop signal that this process has received; None: none, or no flag is installed."""
    received = (holder.signal for holder in map(_holder, STOP_SIGNALS) if holder is not None)
    return next((number for number in received if number is not None), None)


def _holder(number: int) -> StopFlag | None:
    owner = getattr(signal.getsignal(number), "__self__", None)
    return owner if isinstance(owner, StopFlag) else None
