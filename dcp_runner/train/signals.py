"""Stopping on request: a signal only sets a flag, which the training loop reads at its next step boundary.

Nothing else may happen in a handler: a save is collective, and the signal may have reached one rank of many.
"""

from __future__ import annotations

import signal
import time
from types import FrameType
from typing import Any

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_SAME_REQUEST_S = 1.0


class StopFlag:
    """Remembers the first stop signal. A second one means: now.

    One Ctrl-C can arrive twice, from the terminal and from whoever started the rank, so a repetition within a
    second counts as the same request. A rank in a session of its own hears only its launcher and need not wait.
    """

    def __init__(self, *, own_session: bool = False) -> None:
        self.signal: int | None = None
        """Number of the signal that asked to stop; None: go on."""
        self._patience = 0.0 if own_session else _SAME_REQUEST_S
        self._asked_at = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopFlag:
        return self.install()

    def __exit__(self, *exc: object) -> None:
        self.uninstall()

    def install(self) -> StopFlag:
        """Take over SIGTERM and SIGINT of this process (main thread only). Twice is as good as once.

        Raises:
            ValueError: not in the main thread.
        """
        for number in STOP_SIGNALS:
            if number not in self._before:
                self._before[number] = signal.signal(number, self._handle)
        return self

    def uninstall(self) -> None:
        """Give the signals back to whoever had them."""
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.signal is None:
            self.signal, self._asked_at = number, now
        elif now - self._asked_at >= self._patience:
            raise SystemExit(128 + number) if number == signal.SIGTERM else KeyboardInterrupt
