"""Checks and plans with real objects are made in a process of their own: it answers, or its end is told, and nothing of
it stays in this process.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import FORK, TIMEOUT_S, alive, gone

from dcp_runner.common.errors import ConfigError
from dcp_runner.launch.preflight import child_process as module
from dcp_runner.launch.preflight.child_process import in_child_process


def test_the_answer_comes_and_what_was_printed_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    def work() -> dict[str, int]:
        print("printed")
        print("warned", file=sys.stderr)
        return {"process": os.getpid()}

    assert in_child_process("it", work)["process"] != os.getpid()
    shown = capfd.readouterr()
    assert (shown.out, shown.err) == ("printed\n", "warned\n")
    assert multiprocessing.active_children() == []


def raises() -> None:
    raise KeyError("what is wrong")


ENDS: dict[str, tuple[Callable[[], object], str]] = {
    "exception": (raises, "exited with 1; its output is above"),
    "exit": (lambda: sys.exit(3), "exited with 3"),
    "exit that claims success": (lambda: os._exit(0), "exited with 0"),
    "death": (lambda: os.kill(os.getpid(), signal.SIGKILL), "was killed by SIGKILL"),
    "what cannot be sent": (lambda: lambda: None, "exited with 1"),
    "no end": (lambda: time.sleep(TIMEOUT_S), "no result within 0.5 s"),
}


@pytest.mark.parametrize("how", ENDS)
def test_an_end_without_an_answer_is_told(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LIMIT_S", 0.5 if how == "no end" else TIMEOUT_S)
    work, told = ENDS[how]
    with pytest.raises(ConfigError, match="it: ") as caught:
        in_child_process("it", work)
    assert told in str(caught.value)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_it_ends_with_whoever_waits_for_it(number: int, tmp_path: Path) -> None:
    file = tmp_path / "pid"

    def work() -> None:
        (tmp_path / "writing").write_text(str(os.getpid()))
        (tmp_path / "writing").rename(file)
        time.sleep(TIMEOUT_S)

    def wait() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.dup2(os.open(tmp_path / "err", os.O_CREAT | os.O_WRONLY), 2)
        try:
            in_child_process("it", work)
        except KeyboardInterrupt:
            os._exit(7)

    waiting = FORK.Process(target=wait)
    waiting.start()
    deadline = time.monotonic() + TIMEOUT_S
    while not file.exists():
        assert time.monotonic() < deadline and alive(waiting.pid or 0)
    os.kill(waiting.pid or 0, number)
    waiting.join(TIMEOUT_S)
    assert waiting.exitcode == (7 if number == signal.SIGINT else -number)
    assert gone([int(file.read_text())])
    assert (tmp_path / "err").read_text() == ""
