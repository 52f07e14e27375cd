"""Stopping on request: a signal only sets a flag, which the training loop reads at its next step boundary.

Nothing else may happen in a handler: a save is collective, and the signal may have reached one rank of many.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterable
from types import FrameType
from typing import Any

NOTICES = (signal.SIGUSR2, signal.SIGUSR1)
"""A scheduler's way of saying that the time is nearly over."""
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, *NOTICES)
"""In the order in which they count where ranks have got different ones."""
_SAME_REQUEST_S = 1.0


class StopFlag:
    """Remembers the first stop signal. A second SIGINT or SIGTERM means: now. Notices never do, however many come, and
    the SIGTERM that follows a notice is the first one: the save that is under way goes on.

    One Ctrl-C can arrive twice, from the terminal and from whoever started the rank, so a repetition within a
    second counts as the same request. A rank in a session of its own hears only its launcher and need not wait.
    """

    def __init__(self, numbers: Iterable[int] = STOP_SIGNALS, *, own_session: bool = False) -> None:
        self.signal: int | None = None
        """Number of the signal that asked to stop; None: go on."""
        self.exit_now = False
        """Whether this rank was told to leave at once, and so did not stop together with the others."""
        self._numbers = tuple(numbers)
        self._patience = 0.0 if own_session else _SAME_REQUEST_S
        self._asked_at: float | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopFlag:
        return self.install()

    def __exit__(self, *exc: object) -> None:
        self.uninstall()

    def install(self) -> StopFlag:
        """Take over its signals in this process (main thread only), with what an outer flag has been told already.
        Twice is as good as once.

        Raises:
            ValueError: not in the main thread.
        """
        for number in self._numbers:
            if number not in self._before:
                outer = _holder(number)
                self._before[number] = signal.signal(number, self._handle)
                if outer is not None and outer.signal is not None:
                    self.signal, self._asked_at = outer.signal, outer._asked_at
        return self

    def uninstall(self) -> None:
        """Give the signals back to whoever had them."""
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.signal = self.signal or number
        if number in NOTICES:
            return
        now = time.monotonic()
        if self._asked_at is None:
            self._asked_at = now
        elif now - self._asked_at >= self._patience:
            self.exit_now = True
            raise SystemExit(128 + number) if number == signal.SIGTERM else KeyboardInterrupt


def asked() -> int | None:
    """What the flag that this process has was told; None: nothing, or there is no flag."""
    told = (holder.signal for holder in map(_holder, STOP_SIGNALS) if holder is not None)
    return next((number for number in told if number is not None), None)


def _holder(number: int) -> StopFlag | None:
    owner = getattr(signal.getsignal(number), "__self__", None)
    return owner if isinstance(owner, StopFlag) else None
