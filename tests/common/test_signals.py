"""A stop signal sets a flag; a second one means now, unless it is a notice."""

from __future__ import annotations

import os
import signal

import pytest

from dcp_runner.common import signals
from dcp_runner.common.signals import PREEMPTION_SIGNALS, STOP_SIGNALS, StopFlag


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


@pytest.mark.parametrize("notice", PREEMPTION_SIGNALS)
def test_a_notice_is_one_request_however_often_it_comes(notice: int) -> None:
    with StopFlag(own_session=True) as stop:
        for number in (notice, notice, *PREEMPTION_SIGNALS):
            os.kill(os.getpid(), number)
        assert stop.signal == notice


@pytest.mark.parametrize("own_session", [True, False])
@pytest.mark.parametrize(("number", "end"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
def test_what_follows_a_notice_is_the_first_request_to_end(
    monkeypatch: pytest.MonkeyPatch, number: int, end: type[BaseException], own_session: bool
) -> None:
    monkeypatch.setattr(signals, "_SAME_REQUEST_S", 0.0)
    with StopFlag(own_session=own_session) as stop:
        os.kill(os.getpid(), signal.SIGUSR2)
        os.kill(os.getpid(), number)
        assert stop.signal == signal.SIGUSR2
        with pytest.raises(end) as left:
            os.kill(os.getpid(), number)
        assert not isinstance(left.value, SystemExit) or left.value.code == 128 + signal.SIGTERM


def test_only_one_that_leaves_at_once_has_hurried() -> None:
    with StopFlag(own_session=True) as stop:
        for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGUSR1):
            os.kill(os.getpid(), number)
        assert not stop.exit_now
        with pytest.raises(SystemExit):
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.exit_now


def test_a_notice_after_a_request_to_end_changes_nothing() -> None:
    with StopFlag(own_session=True) as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGUSR2)
        assert stop.signal == signal.SIGTERM


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_flag_inside_another_one_knows_what_that_was_told(number: int) -> None:
    with StopFlag() as outer:
        os.kill(os.getpid(), number)
        with StopFlag() as inner:
            assert inner.signal == outer.signal == number
        assert signal.getsignal(number) == outer._handle


def test_a_request_to_an_outer_flag_counts_inside() -> None:
    with StopFlag(), StopFlag(own_session=True) as untold:
        os.kill(os.getpid(), signal.SIGTERM)
        assert untold.signal == signal.SIGTERM
    with StopFlag():
        os.kill(os.getpid(), signal.SIGTERM)
        with StopFlag(own_session=True), pytest.raises(SystemExit):
            os.kill(os.getpid(), signal.SIGTERM)


def test_installing_twice_is_as_good_as_once() -> None:
    before = signal.getsignal(signal.SIGINT)
    stop = StopFlag().install().install()
    stop.uninstall()
    assert signal.getsignal(signal.SIGINT) is before
