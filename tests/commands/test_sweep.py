"""`dcp-runner status|wait|logs|results|cancel` on sweeps that are made by hand."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from sweeps import add, ended_process, ended_sweep, failure, write

from dcp_runner.commands import sweep as sweep_commands
from dcp_runner.commands.command import NO_ANSWER
from dcp_runner.commands.program import run_command
from dcp_runner.common.errors import BAD_INPUT, FAILED
from dcp_runner.sweep import record
from dcp_runner.sweep.record import JobRecord, JobState, Sweep

COMMANDS = [command.name for command in sweep_commands.COMMANDS]


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    return ended_sweep(tmp_path)


@pytest.fixture
def ended() -> str:
    return ended_process()


def metrics(path: Path, *entries: dict[str, Any]) -> None:
    write(path / "metrics.jsonl", "".join(json.dumps(entry) + "\n" for entry in entries))


@contextmanager
def running_job(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """One more job, which runs until it is ended."""
    with subprocess.Popen(["sh", "-c", "read line; :", str(path)], stdin=subprocess.PIPE) as process:
        job = add(path, ids=[str(process.pid)])
        (record.read(path).job_dir(job) / f"{process.pid}.0").mkdir(parents=True)
        yield process
        process.kill()


def test_status_shows_everything_and_records_it(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["status", str(sweep)]) == FAILED
    shown = capsys.readouterr().out
    assert "rank 1 (host) raised ValueError: boom" in shown and "optim.lr=0.2" in shown
    assert shown.splitlines()[-1] == "2 jobs: 1 done, 1 failed"
    known = record.read(sweep)
    assert [(job.state, job.attempts) for job in known.jobs] == [(JobState.done, 1), (JobState.failed, 1)]
    assert run_command(["status", str(sweep)]) == FAILED
    assert capsys.readouterr().out == shown
    assert record.read(sweep) == known


def test_status_for_programs(sweep: Path, ended: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["status", str(sweep), "1", "--json"]) == FAILED
    assert json.loads(capsys.readouterr().out) == [
        {
            "job": 1,
            "state": "failed",
            "reason": "rank 1 (host) raised ValueError: boom",
            "attempts": 1,
            "ids": [ended],
            "overrides": ["optim.lr=0.2"],
            "folder": "1",
        }
    ]


@pytest.mark.parametrize("command", ["status", "wait", "results"])
@pytest.mark.parametrize(("numbers", "code"), [([], FAILED), (["0"], 0), (["1"], FAILED), (["1", "0"], FAILED)])
def test_the_code_is_that_of_the_jobs_asked_for(sweep: Path, command: str, numbers: list[str], code: int) -> None:
    assert run_command([command, str(sweep), *numbers]) == code


def test_only_the_jobs_asked_for_are_shown(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_command(["status", str(sweep), "0"])
    assert "optim.lr=0.2" not in capsys.readouterr().out


def test_a_job_that_runs_is_no_failure(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running_job(sweep):
        assert run_command(["status", str(sweep), "0", "2"]) == 0
        assert "1 running, 1 done, 1 failed" in capsys.readouterr().out
        assert run_command(["wait", str(sweep), "0"]) == 0, "the others are not waited for"
    assert run_command(["status", str(sweep), "2"]) == FAILED
    assert record.read(sweep).jobs[2].reason == "no rank reported an outcome"


def test_a_job_that_was_cancelled_is_a_failure_and_stays_one(sweep: Path, ended: str) -> None:
    cancelled = add(sweep, ids=[ended], state=JobState.cancelled, reason="at the request of its owner")
    assert run_command(["status", str(sweep), "2"]) == FAILED
    assert record.read(sweep).jobs[2] == cancelled


def test_wait_logs_each_change_beside_the_table(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["wait", str(sweep), "--json"]) == FAILED
    printed = capsys.readouterr()
    assert printed.err.splitlines() == ["job 0 done", "job 1 failed: rank 1 (host) raised ValueError: boom"]
    assert [job["state"] for job in json.loads(printed.out)] == ["done", "failed"]


def test_results_are_the_newest_metrics(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics(
        sweep / "0",
        {"step": 1, "attempt": 1, "loss": 2.0},
        {"step": 2, "attempt": 1, "loss": 1.5, "accuracy": 0.25},
        {"step": 2, "attempt": 1, "event": "saved", "bytes": 77},
        {"step": 2, "attempt": 2, "loss": 1.23456789},
    )
    assert run_command(["results", str(sweep), "--json"]) == FAILED
    assert json.loads(capsys.readouterr().out) == [
        {"job": 0, "state": "done", "step": 2, "loss": 1.23456789, "accuracy": 0.25, "overrides": ["optim.lr=0.1"]},
        {"job": 1, "state": "failed", "overrides": ["optim.lr=0.2"]},
    ]
    assert run_command(["results", str(sweep)]) == FAILED
    shown = [[cell.strip() for cell in line.split("│")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    assert ["0", "done", "2", "1.2346", "0.25", "optim.lr=0.1"] in shown
    assert ["1", "failed", "", "", "", "optim.lr=0.2"] in shown


def test_results_of_a_run_that_was_killed_while_it_wrote(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics(sweep / "0", {"step": 1, "loss": 2.0})
    with (sweep / "0/metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    assert run_command(["results", str(sweep), "0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["loss"] == 2.0


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["0"], ["rank 0 of job 0"]),
        (["1"], ["rank 1 of job 1"]),
        ([], ["rank 0 of job 0", "rank 1 of job 1"]),
        (["1", "--rank", "0"], ["rank 0 of job 1"]),
        (["--rank=0"], ["rank 0 of job 0", "rank 0 of job 1"]),
    ],
)
def test_logs_are_of_the_rank_that_failed_first(
    sweep: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], shown: list[str]
) -> None:
    write(sweep / "1/attempts/1/outcomes/rank-00000.json", json.dumps(asdict(failure(0, 4.0))))
    outcome = failure(1, 1.0)
    write(sweep / "1/attempts/1/outcomes/rank-00001.json", json.dumps(asdict(outcome)))
    assert run_command(["logs", str(sweep), *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if not line.startswith("==")] == shown
    assert [line.split(":")[0] for line in lines if line.startswith("==")] == [f"== job {text[-1]}" for text in shown]


def test_a_consequence_is_not_what_failed_first(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As `status` says: rank 1 of job 1, though rank 0 wrote earlier that its peer was gone."""
    run_command(["logs", str(sweep), "1"])
    assert capsys.readouterr().out.splitlines()[1:] == ["rank 1 of job 1"]


def test_logs_of_a_job_that_has_no_ranks_are_what_it_printed(
    sweep: Path, ended: str, capsys: pytest.CaptureFixture[str]
) -> None:
    add(sweep, ids=[ended])
    for kind in ("out", "err"):
        write(sweep / f".submitit/{ended}/{ended}_0_log.{kind}", f"standard {kind}\n")
    assert run_command(["logs", str(sweep), "2"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line for line in shown if not line.startswith("==")] == ["standard err", "standard out"]


def test_cancel_ends_what_runs(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running_job(sweep) as process:
        assert run_command(["cancel", str(sweep), "0", "1"]) == 0
        assert capsys.readouterr().out == "no job to cancel: all have ended\n"
        assert process.poll() is None
        assert run_command(["cancel", str(sweep), "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == {"cancelled": [2]}
        assert process.wait(10) == -signal.SIGTERM
    assert run_command(["status", str(sweep), "2"]) == FAILED
    assert record.read(sweep).jobs[2].state is JobState.cancelled
    capsys.readouterr()
    assert run_command(["cancel", str(sweep)]) == 0
    assert capsys.readouterr().out == "no job to cancel: all have ended\n"


def test_a_cancellation_that_is_refused_is_an_error(
    sweep: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = record.read(sweep)
    made.scheduler = "slurm"
    made.jobs[0].ids = made.jobs[1].ids = ["7"]
    made.write()
    monkeypatch.setenv("PATH", str(sweep))
    for name, script in {"squeue": "echo '7|RUNNING'", "scancel": "echo 'Access denied' >&2; exit 1"}.items():
        write(sweep / name, f"#!/bin/sh\n{script}\n")
        (sweep / name).chmod(0o755)
    assert run_command(["cancel", str(sweep)]) == FAILED
    assert "not all jobs were cancelled: Access denied" in capsys.readouterr().err


def test_a_job_that_was_never_submitted_can_be_cancelled(sweep: Path) -> None:
    add(sweep)
    assert run_command(["cancel", str(sweep)]) == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_a_mistake_is_one_line(sweep: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    before = (sweep / record.FILE).read_text()
    for arguments, message in {
        (str(sweep), "0", "7", "5"): f"no job 5, 7 in {sweep} (jobs: 0 to 1)",
        (
            str(sweep / "0"),
        ): f"{sweep / '0'}: not a sweep folder (no sweep.json, which sweeps of hydra/launcher=dcp_local and dcp_slurm have)",
        (
            str(sweep / "none"),
        ): f"{sweep / 'none'}: not a sweep folder (no sweep.json, which sweeps of hydra/launcher=dcp_local and dcp_slurm have)",
    }.items():
        assert run_command([command, *arguments]) == BAD_INPUT
        printed = capsys.readouterr()
        assert (printed.out, printed.err) == ("", f"dcp-runner {command}: {message}\n")
    assert (sweep / record.FILE).read_text() == before


@pytest.mark.parametrize("arguments", [["status"], ["status", "sweep", "one"], ["logs", "sweep", "--json"]])
def test_wrong_arguments(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        run_command(arguments)
    assert exit.value.code == BAD_INPUT


def test_a_sweep_is_found_from_the_current_folder(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(sweep.parent)
    assert run_command(["status", sweep.name, "0"]) == 0


@pytest.mark.parametrize("command", ["status", "results", "cancel"])
def test_a_scheduler_that_is_silent_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    write(tmp_path / "squeue", "#!/bin/sh\necho 'Unable to contact slurm controller' >&2; exit 1\n")
    (tmp_path / "squeue").chmod(0o755)
    jobs = [JobRecord(number=0, overrides=[], ids=["7"], state=JobState.running)]
    Sweep(path=tmp_path, scheduler="slurm", jobs=jobs).write()
    assert run_command([command, str(tmp_path)]) == NO_ANSWER
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    assert "Unable to contact slurm controller" in printed.err
    assert record.read(tmp_path).jobs == jobs
