"""An error that the user can fix is shown as its text alone, of whatever kind and wherever it ends a program."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import Command, composed
from entries import user_errors

from dcp_runner.app import main
from dcp_runner.commands.command import CommandError
from dcp_runner.common.errors import ConfigError, UserError, showing_user_errors
from dcp_runner.launch.first_failure import console_summary
from dcp_runner.launch.outcomes import exit_code, failure_record, read_failure_records

ERRORS = user_errors()
NAMES = [type(error).__name__ for error in ERRORS]


def test_all_kinds_are_found() -> None:
    assert {"UserError", "ConfigError", "FileAccessError", "CheckpointError", "ResumeError", "NonFiniteError"} <= {
        *NAMES
    }
    assert len(NAMES) == len({*NAMES}) > 12


@pytest.mark.parametrize("error", ERRORS, ids=NAMES)
def test_a_program_shows_its_text_and_has_its_exit_code(error: UserError, capsys: pytest.CaptureFixture[str]) -> None:
    @showing_user_errors()
    def program() -> None:
        raise error

    with pytest.raises(SystemExit) as end:
        program()
    shown = capsys.readouterr().err
    assert end.value.code == (2 if isinstance(error, (ConfigError, CommandError)) else 1)
    assert str(error) in shown and "Traceback" not in shown


@pytest.mark.parametrize("error", ERRORS, ids=NAMES)
def test_its_builtin_base_catches_it_still(error: UserError) -> None:
    assert type(error) in (UserError, CommandError) or isinstance(error, (ValueError, OSError, RuntimeError, TypeError))


@pytest.mark.parametrize("error", [ConfigError("a", "b"), *ERRORS], ids=["two problems", *NAMES])
def test_another_process_gets_it_as_it_is(error: UserError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error) and vars(copy) == vars(error)
    assert (str(copy), copy.report, copy.exit_code) == (str(error), error.report, error.exit_code)


@pytest.mark.parametrize("error", ERRORS, ids=NAMES)
def test_a_rank_records_it_as_one_that_needs_no_traceback(error: UserError) -> None:
    record = failure_record(error, rank=3)
    assert record.expected and exit_code(error) == 1
    assert "Traceback" not in console_summary(record)
    assert not failure_record(KeyError("not one of them"), rank=3).expected


@pytest.mark.parametrize("error", [ConfigError("a", "b"), *ERRORS], ids=["two problems", *NAMES])
def test_the_program_itself(
    error: UserError, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`dcp-runner` with a command: whatever it raises."""

    def command(arguments: list[str]) -> int:
        raise error

    monkeypatch.setattr("dcp_runner.app.run_command", command)
    monkeypatch.setattr(sys, "argv", ["dcp-runner", "status"])
    with pytest.raises(SystemExit, match=str(error.exit_code)):
        main()
    assert capsys.readouterr().err == error.report + "\n"


def every_kind(entry: str) -> Callable[[], None]:
    """One start after the other, in one process, each with the next kind of error."""

    def program() -> None:
        for number, error in enumerate(ERRORS):
            try:
                composed(entry, f"seed={number}")()
            except SystemExit as end:
                print(f"{type(error).__name__} {end.code}", flush=True)

    return program


@pytest.mark.slow
@pytest.mark.timeout(90)
def test_a_single_rank_in_this_process_shows_it_in_one_line(tmp_path: Path) -> None:
    made = Command(tmp_path, every_kind("raises_a_user_error")).start()
    assert made.wait() == 0, made.err
    assert [line for line in made.out.splitlines() if line.split()[0] in NAMES] == [f"{name} 1" for name in NAMES]
    assert "Traceback" not in made.err
    assert [line for line in made.err.splitlines() if line.startswith("FAILED: ")] == [
        line for error in ERRORS for line in f"FAILED: {error}".splitlines()[:1]
    ]


@pytest.mark.slow
@pytest.mark.timeout(90)
@pytest.mark.parametrize("first", range(0, len(ERRORS), 4))
def test_ranks_that_were_forked_show_it_too(first: int, tmp_path: Path) -> None:
    size = min(4, len(ERRORS) - first)
    ranks = ("parallel=ddp", f"parallel.dp={size}", f"data.batch_size={size}")
    made = Command(tmp_path, composed("raises_a_user_error", f"seed={first}", *(ranks if size > 1 else ()))).start()
    assert made.wait() == 1, made.err
    assert "Traceback" not in made.err and "FAILED: " in made.err
    records = read_failure_records(tmp_path / "outputs/run/attempts/1/outcomes")
    assert records and all(record.expected for record in records)
    assert {record.type for record in records} <= {*NAMES[first : first + size]}
