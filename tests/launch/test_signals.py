"""A stop signal sets a flag; a second one means now."""

from __future__ import annotations

import os
import signal

import pytest

from dcp_runner.train import signals
from dcp_runner.train.signals import StopFlag


def test_the_first_signal_only_sets_the_flag() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopFlag() as stop:
        assert stop.signal is None
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signal == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(("number", "end"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
def test_the_second_one_leaves(monkeypatch: pytest.MonkeyPatch, number: int, end: type[BaseException]) -> None:
    with StopFlag(own_session=True) as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(end):
            os.kill(os.getpid(), number)
        assert stop.signal == signal.SIGTERM
    monkeypatch.setattr(signals, "_SAME_REQUEST_S", 0.0)
    with StopFlag():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(end):
            os.kill(os.getpid(), number)


def test_installing_twice_is_as_good_as_once() -> None:
    before = signal.getsignal(signal.SIGINT)
    stop = StopFlag().install().install()
    stop.uninstall()
    assert signal.getsignal(signal.SIGINT) is before
