"""The state of a sweep's jobs, from what their ranks recorded in its folder."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from sweeps import Says, add, end, ended_process, ended_sweep, failure, write

from dcp_runner.launch import outcomes
from dcp_runner.sweep import record, status
from dcp_runner.sweep.record import JobState


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    return ended_sweep(tmp_path)


@pytest.fixture
def ended() -> str:
    return ended_process()


def refresh(path: Path) -> None:
    status.refresh(record.read(path))


def test_what_an_earlier_start_recorded_does_not_count_for_the_last(sweep: Path, ended: str) -> None:
    """The last one has failed before it made an attempt."""
    job = add(sweep, ids=["1", ended])
    outcomes_of_first = sweep / "2/attempts/1/outcomes"
    outcomes_of_first.mkdir(parents=True)
    outcomes.write_failure_record(outcomes_of_first, failure(0, 1.0, message="at first"))
    end(record.read(sweep), job, {0: 1}, failure(0, 9.0, "ImportError", "now"))
    refresh(sweep)
    assert record.read(sweep).jobs[2].reason == "rank 0 (host) raised ImportError: now"


def test_what_srun_reports_of_a_job_is_its_reason(sweep: Path, ended: str) -> None:
    add(sweep, ids=[ended], tasks_per_node=2)
    write(sweep / f".submitit/{ended}/{ended}_0_log.err", "noise\nsrun: error: n2: task 1: Killed\n")
    refresh(sweep)
    assert record.read(sweep).jobs[2].reason == "rank 1 (n2) died: Killed (reported by srun)"


def test_records_that_a_file_system_shows_later(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that has completed has not failed before they had time to appear; nor is it done without them."""
    job = add(sweep, ids=["7"], tasks_per_node=2)
    end(record.read(sweep), job, {0: 0})

    def state(scheduler_state: str) -> JobState:
        status.refresh(seen := record.read(sweep), Says(scheduler_state))
        return seen.jobs[2].state

    assert state("COMPLETED") is JobState.running
    assert "1 of 2 exit records are not visible yet" in record.read(sweep).jobs[2].reason
    now = status.time.time()
    monkeypatch.setattr(status, "time", SimpleNamespace(time=lambda: now + status.VISIBLE_S / 2))
    assert state("COMPLETED") is JobState.running
    monkeypatch.setattr(status, "time", SimpleNamespace(time=lambda: now + status.VISIBLE_S + 1))
    before = (sweep / record.FILE).read_text()
    assert state("COMPLETED") is JobState.failed
    (sweep / record.FILE).write_text(before)
    outcomes.write_exit_record(sweep / ".jobs/2/7.0", 1, 0)
    assert state("COMPLETED") is JobState.done


@pytest.mark.parametrize("seen", [False, True])
def test_a_folder_that_the_nodes_do_not_share(sweep: Path, seen: bool) -> None:
    add(sweep, ids=["7"])
    if seen:
        write(sweep / ".submitit/7/7_0_log.err", "no such module\n")
    made = record.read(sweep)
    made.scheduler = "slurm"
    status.refresh(made, Says("FAILED"))
    assert made.jobs[2].reason.startswith("no rank reported an outcome")
    assert ("is it on a file system that all nodes share?" in made.jobs[2].reason) == (not seen)


def test_a_job_that_was_never_submitted_is_not_waited_for(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def asleep(seconds: float) -> None:
        raise TimeoutError

    monkeypatch.setattr(status, "time", SimpleNamespace(sleep=asleep))
    add(sweep)
    status.wait(waited := record.read(sweep), 2.0, {0, 1, 2}, lambda text: None)
    assert [job.state for job in waited.jobs] == [JobState.done, JobState.failed, JobState.waiting]


def test_a_change_is_logged_once(sweep: Path) -> None:
    add(sweep, ids=["1", ended_process()])
    made = record.read(sweep)
    end(made, made.jobs[2], {0: 1}, failure(0, 1.0))
    lines: list[str] = []
    status.wait(made, 0.0, {1, 2}, lines.append)
    status.wait(made, 0.0, {1}, lines.append)
    boom = "rank 1 (host) raised ValueError: boom"
    again = f"job 2 failed: {boom.replace('rank 1', 'rank 0')}"
    assert lines == [f"job 1 failed: {boom}", again, f"job 1 failed: {boom}"]


def test_jobs_are_counted_by_state(sweep: Path) -> None:
    made = record.read(sweep)
    status.refresh(made)
    assert status.summary(made) == "2 jobs: 1 done, 1 failed"
    made.jobs.pop()
    assert status.summary(made) == "1 job: 1 done"


def test_the_most_useful_logs_are_those_of_the_ranks(sweep: Path) -> None:
    made = record.read(sweep)
    assert [file.name for file in status.most_useful_logs(made, made.jobs[1])] == ["rank-00000.log", "rank-00001.log"]
    job = add(sweep, ids=["7"])
    write(sweep / ".submitit/7/7_0_log.err", "no such module\n")
    assert [file.name for file in status.most_useful_logs(made, job)] == ["7_0_log.err"]
