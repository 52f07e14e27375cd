"""`dcp-runner status|wait|logs|cancel|results` on sweeps that are made by hand."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dcp_runner.launch import outcomes
from dcp_runner.launch.outcomes import FailureRecord
from dcp_runner.sweep import record, status
from dcp_runner.sweep.commands import BAD_INPUT, COMMANDS, NO_ANSWER, main
from dcp_runner.sweep.record import JobRecord, JobState, Sweep

FAILED = 1


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")


@pytest.fixture(scope="module")
def ended() -> str:
    """The id of a process that has ended."""
    with subprocess.Popen(["true"]) as process:
        return str(process.pid)


@pytest.fixture
def sweep(tmp_path: Path, ended: str) -> Path:
    """Job 0 is done, and rank 1 of job 1 has failed. Nobody has looked yet."""
    jobs = [
        JobRecord(number=0, overrides=["optim.lr=0.1"], folder="0", ids=[ended]),
        JobRecord(number=1, overrides=["optim.lr=0.2"], folder="1", ids=[ended], tasks_per_node=2),
    ]
    made = Sweep(path=tmp_path, scheduler="local", jobs=jobs)
    made.write()
    leave(made, jobs[0], {0: 0})
    leave(made, jobs[1], {0: 1, 1: 1}, note(0, 2.0, "DistNetworkError", "Connection reset by peer"), note(1, 3.0))
    for rank in (0, 1):
        write(tmp_path / f"1/logs/rank-0000{rank}.log", f"rank {rank} of job 1\n")
    write(tmp_path / "0/logs/rank-00000.log", "rank 0 of job 0\n")
    return tmp_path


def note(rank: int, time: float, kind: str = "ValueError", message: str = "boom") -> FailureRecord:
    return FailureRecord(rank, "host", 1, kind, message, "Traceback", time)


def leave(sweep: Sweep, job: JobRecord, codes: dict[int, int], *failures: FailureRecord) -> None:
    """The notes of ranks that have left the first start of the job's last submission."""
    start = sweep.notes(job) / f"{job.ids[-1]}.0"
    start.mkdir(parents=True)
    for rank, code in codes.items():
        outcomes.write_exit_record(start, rank, code)
    for failure in failures:
        outcomes.write_failure_record(start, failure)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def metrics(path: Path, *entries: dict[str, Any]) -> None:
    write(path / "metrics.jsonl", "".join(json.dumps(entry) + "\n" for entry in entries))


def add(path: Path, **job: Any) -> JobRecord:
    """One more job."""
    sweep = record.read(path)
    sweep.jobs.append(JobRecord(number=len(sweep.jobs), overrides=[], folder=str(len(sweep.jobs)), **job))
    sweep.write()
    return sweep.jobs[-1]


@contextmanager
def running_job(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """One more job, which runs until it is ended."""
    with subprocess.Popen(["sh", "-c", "read line; :", str(path)], stdin=subprocess.PIPE) as process:
        job = add(path, ids=[str(process.pid)])
        (record.read(path).notes(job) / f"{process.pid}.0").mkdir(parents=True)
        yield process
        process.kill()


def test_status_tells_all_and_writes_it_down(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(sweep)]) == FAILED
    shown = capsys.readouterr().out
    assert "rank 1 (host) raised ValueError: boom" in shown and "optim.lr=0.2" in shown
    assert shown.splitlines()[-1] == "2 jobs: 1 done, 1 failed"
    known = record.read(sweep)
    assert [(job.state, job.attempts) for job in known.jobs] == [(JobState.done, 1), (JobState.failed, 1)]
    assert main(["status", str(sweep)]) == FAILED
    assert capsys.readouterr().out == shown
    assert record.read(sweep) == known


def test_status_for_programs(sweep: Path, ended: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(sweep), "1", "--json"]) == FAILED
    assert json.loads(capsys.readouterr().out) == [
        {
            "job": 1,
            "state": "failed",
            "told": "rank 1 (host) raised ValueError: boom",
            "attempts": 1,
            "ids": [ended],
            "overrides": ["optim.lr=0.2"],
            "folder": "1",
        }
    ]


@pytest.mark.parametrize("command", ["status", "wait", "results"])
@pytest.mark.parametrize(("numbers", "code"), [([], FAILED), (["0"], 0), (["1"], FAILED), (["1", "0"], FAILED)])
def test_the_code_is_that_of_the_jobs_asked_for(sweep: Path, command: str, numbers: list[str], code: int) -> None:
    assert main([command, str(sweep), *numbers]) == code


def test_only_the_jobs_asked_for_are_shown(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["status", str(sweep), "0"])
    assert "optim.lr=0.2" not in capsys.readouterr().out


def test_a_job_that_runs_is_no_failure(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running_job(sweep):
        assert main(["status", str(sweep), "0", "2"]) == 0
        assert "1 running, 1 done, 1 failed" in capsys.readouterr().out
        assert main(["wait", str(sweep), "0"]) == 0, "nobody waits for the others"
    assert main(["status", str(sweep), "2"]) == FAILED
    assert record.read(sweep).jobs[2].told == "no rank left a word"


def test_a_job_that_was_cancelled_is_a_failure_and_stays_one(sweep: Path, ended: str) -> None:
    cancelled = add(sweep, ids=[ended], state=JobState.cancelled, told="as somebody wished")
    assert main(["status", str(sweep), "2"]) == FAILED
    assert record.read(sweep).jobs[2] == cancelled


def test_wait_tells_each_change_beside_the_table(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["wait", str(sweep), "--json"]) == FAILED
    told = capsys.readouterr()
    assert told.err.splitlines() == ["job 0 done", "job 1 failed: rank 1 (host) raised ValueError: boom"]
    assert [job["state"] for job in json.loads(told.out)] == ["done", "failed"]


def test_what_an_earlier_start_noted_is_not_told_of_the_last(sweep: Path, ended: str) -> None:
    """The last one has failed before it made an attempt."""
    job = add(sweep, ids=["1", ended])
    outcomes_of_first = sweep / "2/attempts/1/outcomes"
    outcomes_of_first.mkdir(parents=True)
    outcomes.write_failure_record(outcomes_of_first, note(0, 1.0, message="at first"))
    leave(record.read(sweep), job, {0: 1}, note(0, 9.0, "ImportError", "now"))
    main(["status", str(sweep)])
    assert record.read(sweep).jobs[2].told == "rank 0 (host) raised ImportError: now"


def test_results_are_the_newest_metrics(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics(
        sweep / "0",
        {"step": 1, "attempt": 1, "loss": 2.0},
        {"step": 2, "attempt": 1, "loss": 1.5, "accuracy": 0.25},
        {"step": 2, "attempt": 1, "event": "saved", "bytes": 77},
        {"step": 2, "attempt": 2, "loss": 1.23456789},
    )
    assert main(["results", str(sweep), "--json"]) == FAILED
    assert json.loads(capsys.readouterr().out) == [
        {"job": 0, "state": "done", "step": 2, "loss": 1.23456789, "accuracy": 0.25, "overrides": ["optim.lr=0.1"]},
        {"job": 1, "state": "failed", "overrides": ["optim.lr=0.2"]},
    ]
    assert main(["results", str(sweep)]) == FAILED
    shown = [[cell.strip() for cell in line.split("│")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    assert ["0", "done", "2", "1.2346", "0.25", "optim.lr=0.1"] in shown
    assert ["1", "failed", "", "", "", "optim.lr=0.2"] in shown


def test_results_of_a_run_that_was_killed_while_it_wrote(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics(sweep / "0", {"step": 1, "loss": 2.0})
    with (sweep / "0/metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    assert main(["results", str(sweep), "0", "--json"]) == 0
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
    write(sweep / "1/attempts/1/outcomes/rank-00000.json", json.dumps(asdict(note(0, 4.0))))
    outcome = note(1, 1.0)
    write(sweep / "1/attempts/1/outcomes/rank-00001.json", json.dumps(asdict(outcome)))
    assert main(["logs", str(sweep), *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if not line.startswith("==")] == shown
    assert [line.split(":")[0] for line in lines if line.startswith("==")] == [f"== job {text[-1]}" for text in shown]


def test_a_consequence_is_not_what_failed_first(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As `status` says: rank 1 of job 1, though rank 0 wrote earlier that its peer was gone."""
    main(["logs", str(sweep), "1"])
    assert capsys.readouterr().out.splitlines()[1:] == ["rank 1 of job 1"]


def test_logs_of_a_job_that_has_no_ranks_are_what_it_printed(
    sweep: Path, ended: str, capsys: pytest.CaptureFixture[str]
) -> None:
    add(sweep, ids=[ended])
    for kind in ("out", "err"):
        write(sweep / f".submitit/{ended}/{ended}_0_log.{kind}", f"standard {kind}\n")
    assert main(["logs", str(sweep), "2"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line for line in shown if not line.startswith("==")] == ["standard err", "standard out"]


def test_cancel_ends_what_runs(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running_job(sweep) as process:
        assert main(["cancel", str(sweep), "0", "1"]) == 0
        assert capsys.readouterr().out == "cancelled: nothing\n"
        assert process.poll() is None
        assert main(["cancel", str(sweep), "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == {"cancelled": [2]}
        assert process.wait(10) == -signal.SIGTERM
    assert main(["status", str(sweep), "2"]) == FAILED
    assert record.read(sweep).jobs[2].state is JobState.cancelled
    capsys.readouterr()
    assert main(["cancel", str(sweep)]) == 0
    assert capsys.readouterr().out == "cancelled: nothing\n"


def test_what_srun_says_of_a_job_is_told(sweep: Path, ended: str) -> None:
    add(sweep, ids=[ended], tasks_per_node=2)
    write(sweep / f".submitit/{ended}/{ended}_0_log.err", "noise\nsrun: error: n2: task 1: Killed\n")
    assert main(["status", str(sweep), "2"]) == FAILED
    assert record.read(sweep).jobs[2].told == "rank 1 (n2) died: Killed, says srun"


def test_who_may_not_cancel_is_told_so(
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
    assert main(["cancel", str(sweep)]) == FAILED
    assert "not everything was cancelled: Access denied" in capsys.readouterr().err


class Says:
    """A scheduler that says the same of every job."""

    def __init__(self, word: str) -> None:
        self.word = word

    def words(self, ids: Sequence[str]) -> dict[str, str]:
        return dict.fromkeys(ids, self.word)

    def cancel(self, ids: Sequence[str]) -> str:
        return ""


def test_notes_that_a_file_system_shows_later(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that has completed is not told as failed before they had time to come; nor as done without them."""
    job = add(sweep, ids=["7"], tasks_per_node=2)
    leave(record.read(sweep), job, {0: 0})

    def state(word: str) -> JobState:
        status.refresh(seen := record.read(sweep), Says(word))
        return seen.jobs[2].state

    assert state("COMPLETED") is JobState.running
    assert "the notes of 1 ranks are not here yet" in record.read(sweep).jobs[2].told
    now = status.time.time()
    monkeypatch.setattr(status, "time", SimpleNamespace(time=lambda: now + status.NOTES_S / 2))
    assert state("COMPLETED") is JobState.running
    monkeypatch.setattr(status, "time", SimpleNamespace(time=lambda: now + status.NOTES_S + 1))
    before = (sweep / record.FILE).read_text()
    assert state("COMPLETED") is JobState.failed
    (sweep / record.FILE).write_text(before)
    outcomes.write_exit_record(sweep / ".jobs/2/7.0", 1, 0)
    assert state("COMPLETED") is JobState.done


@pytest.mark.parametrize("seen", [False, True])
def test_a_folder_that_the_nodes_do_not_see(sweep: Path, seen: bool) -> None:
    add(sweep, ids=["7"])
    if seen:
        write(sweep / ".submitit/7/7_0_log.err", "no such module\n")
    made = record.read(sweep)
    made.scheduler = "slurm"
    status.refresh(made, Says("FAILED"))
    assert made.jobs[2].told.startswith("no rank left a word")
    assert ("is it a folder that all nodes see?" in made.jobs[2].told) == (not seen)


def test_a_job_that_was_never_submitted_can_be_cancelled(sweep: Path) -> None:
    add(sweep)
    assert main(["cancel", str(sweep)]) == 0


def test_nobody_waits_for_a_job_that_was_never_submitted(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def asleep(seconds: float) -> None:
        raise TimeoutError

    monkeypatch.setattr(status, "time", SimpleNamespace(sleep=asleep))
    add(sweep)
    assert main(["wait", str(sweep)]) == FAILED


@pytest.mark.parametrize("command", COMMANDS)
def test_mistakes_are_told_in_a_line(sweep: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    before = (sweep / record.FILE).read_text()
    for arguments, said in {
        (str(sweep), "0", "7", "5"): f"no job 5, 7 in {sweep} (there are 0 to 1)",
        (str(sweep / "0"),): f"{sweep / '0'}: no sweep.json in it, so it is not the folder of a sweep",
        (str(sweep / "none"),): f"{sweep / 'none'}: no sweep.json in it, so it is not the folder of a sweep",
    }.items():
        assert main([command, *arguments]) == BAD_INPUT
        told = capsys.readouterr()
        assert (told.out, told.err) == ("", f"dcp-runner {command}: {said}\n")
    assert (sweep / record.FILE).read_text() == before


@pytest.mark.parametrize(
    "arguments", [["status"], ["status", "sweep", "one"], ["logs", "sweep", "--json"], ["stop", "sweep"]]
)
def test_what_is_no_command(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == BAD_INPUT


def test_folders_are_found_from_where_one_is(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(sweep.parent)
    assert main(["status", sweep.name, "0"]) == 0


@pytest.mark.parametrize("command", ["status", "results", "cancel"])
def test_a_scheduler_that_is_silent_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    write(tmp_path / "squeue", "#!/bin/sh\necho 'Unable to contact slurm controller' >&2; exit 1\n")
    (tmp_path / "squeue").chmod(0o755)
    jobs = [JobRecord(number=0, overrides=[], ids=["7"], state=JobState.running)]
    Sweep(path=tmp_path, scheduler="slurm", jobs=jobs).write()
    assert main([command, str(tmp_path)]) == NO_ANSWER
    told = capsys.readouterr()
    assert (told.out, told.err.count("\n")) == ("", 1)
    assert "Unable to contact slurm controller" in told.err
    assert record.read(tmp_path).jobs == jobs
