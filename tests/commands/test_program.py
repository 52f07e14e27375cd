"""`dcp-runner` as one program: its help page, its commands, and words that are neither command nor override."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
from sweeps import ended_sweep, write

from dcp_runner.commands import program
from dcp_runner.commands.command import Command, CommandError
from dcp_runner.commands.program import COMMANDS, RUN, run_command
from dcp_runner.common.errors import BAD_INPUT
from dcp_runner.common.version import __version__

PYTHON = [sys.executable, "-m", "dcp_runner"]


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_lists_the_run_and_every_command(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command([flag]) == 0
    page = capsys.readouterr().out
    for name, text in [(RUN, "train"), *((command.name, command.help[:30]) for command in COMMANDS.values())]:
        assert re.search(rf"^ +{name} +{text}", page, re.MULTILINE), name
    assert f"dcp-runner {RUN} --help" in page, "where config groups and keys are"


def test_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["--version"]) == 0
    assert capsys.readouterr().out == f"dcp-runner {__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help_page(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        run_command([command, "--help"])
    assert exit.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: dcp-runner {command} ")


@pytest.mark.parametrize(
    ("arguments", "near"),
    [
        (["stauts", "sweep"], "status"),
        (["Logs"], "logs"),
        (["ran", "parallel=ddp"], "run"),
        (["xyzzy"], None),
        (["a word"], None),
    ],
)
def test_an_unknown_word_is_answered_with_the_nearest_command(
    capsys: pytest.CaptureFixture[str], arguments: list[str], near: str | None
) -> None:
    assert run_command(arguments) == BAD_INPUT
    printed = capsys.readouterr()
    line = f"dcp-runner: unknown command or override '{arguments[0]}'; commands: {', '.join([RUN, *COMMANDS])}; "
    assert printed.out == "" and printed.err.startswith(line) and printed.err.count("\n") == 1
    rest = printed.err.removeprefix(line)
    assert ("did you mean" in rest) == (near is not None)
    assert near or "--help" in rest
    assert not near or near in rest


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["run"],
        ["run", "--help"],
        ["name=status"],
        ["parallel=ddp", "--help"],
        ["--cfg", "job"],
        ["-m", "seed=0,1"],
        ["~callbacks"],
        ["+experiment=demo"],
        ["--help", "parallel=ddp"],
    ],
)
def test_everything_else_is_a_training_run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(arguments) is None
    assert capsys.readouterr() == ("", "")


def one_command(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(given: Namespace) -> int:
        raise error

    monkeypatch.setattr(program, "COMMANDS", {"fail": Command("fail", "fail", lambda parser: None, fail)})


def test_an_error_of_a_command_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    one_command(monkeypatch, CommandError("no such thing", 7))
    assert run_command(["fail"]) == 7
    assert capsys.readouterr() == ("", "dcp-runner fail: no such thing\n")


def test_ctrl_c_ends_a_command_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    one_command(monkeypatch, KeyboardInterrupt())
    assert run_command(["fail"]) == 128 + signal.SIGINT


@pytest.mark.slow
def test_the_program_itself(tmp_path: Path) -> None:
    """`python -m dcp_runner`, which is what `dcp-runner` is too."""
    ended_sweep(tmp_path)
    done = subprocess.run([*PYTHON, "status", tmp_path, "0"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "") and "2 jobs: 1 done, 1 failed" in done.stdout
    unknown = subprocess.run([*PYTHON, "stauts", tmp_path], capture_output=True, text=True, timeout=60)
    assert unknown.returncode == BAD_INPUT and "did you mean" in unknown.stderr


@pytest.mark.slow
def test_a_reader_that_stops_reading_is_no_error(tmp_path: Path) -> None:
    """As `dcp-runner logs SWEEP_DIR | head` does."""
    ended_sweep(tmp_path)
    write(tmp_path / "0/logs/rank-00000.log", "line\n" * 100_000)
    logs = [*PYTHON, "logs", str(tmp_path), "0"]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}  # which loses short writes
    with subprocess.Popen(logs, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stderr
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 128 + signal.SIGPIPE


@pytest.mark.slow
def test_the_help_of_a_run_has_groups_and_keys(tmp_path: Path) -> None:
    helped = [*PYTHON, RUN, "--help"]
    done = subprocess.run(helped, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    assert "parallel: " in done.stdout and "trainer.max_steps=" in done.stdout
