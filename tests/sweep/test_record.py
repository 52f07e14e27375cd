"""sweep.json and the folders beside it."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dcp_runner.sweep.record import JobRecord, JobState, Sweep, read


def sweep_of(path: Path) -> Sweep:
    first = JobRecord(
        number=0,
        overrides=["optim.lr=1e-3", "name='mit Ümlaut'"],
        config="abc",
        folder="0",
        nodes=2,
        tasks_per_node=4,
        ids=["12_0", "15"],
        state=JobState.failed,
        attempts=3,
        reason="TIMEOUT: no rank reported an outcome",
    )
    code = {"commit": "c0ffee", "changed": True, "new_files": ["a.py"]}
    jobs = [first, JobRecord(number=1, overrides=[])]
    return Sweep(path=path, scheduler="slurm", command=["-m", "a=1,2"], code=code, jobs=jobs)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path)
    sweep.write()
    assert read(tmp_path) == sweep
    assert [job.state for job in read(tmp_path).jobs] == [JobState.failed, JobState.waiting]
    assert all(isinstance(job.state, JobState) for job in read(tmp_path).jobs)


def test_a_job_on_disk(tmp_path: Path) -> None:
    """The keys of the file, whatever the fields are called."""
    sweep_of(tmp_path).write()
    job = json.loads((tmp_path / "sweep.json").read_text())["jobs"][0]
    assert job == {
        "number": 0, "overrides": ["optim.lr=1e-3", "name='mit Ümlaut'"], "config": "abc", "folder": "0", "nodes": 2,
        "tasks_per_node": 4, "ids": ["12_0", "15"], "state": "failed", "attempts": 3, "ended_at": 0.0,
        "told": "TIMEOUT: no rank reported an outcome",
    }  # fmt: skip


def test_a_sweep_can_be_moved(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    sweep_of(tmp_path / "here").write()
    assert str(tmp_path) not in (tmp_path / "here/sweep.json").read_text()
    moved = (tmp_path / "here").rename(tmp_path / "there")
    assert read(moved) == sweep_of(moved)


def test_a_write_replaces_the_file_in_one_step(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path)
    sweep.write()
    with (tmp_path / "sweep.json").open() as before:
        sweep.jobs.clear()
        sweep.write()
        assert len(json.load(before)["jobs"]) == 2
    assert read(tmp_path).jobs == []
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.json"]


def test_several_may_write_at_the_same_time(tmp_path: Path) -> None:
    """`dcp-runner wait` in one shell and `status` in another."""
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: sweep_of(tmp_path).write(), range(400)))
    assert read(tmp_path) == sweep_of(tmp_path)


@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_that_is_no_sweep(tmp_path: Path, exists: bool) -> None:
    folder = tmp_path if exists else tmp_path / "none"
    with pytest.raises(FileNotFoundError, match=f"{folder}: not a sweep folder"):
        read(folder)


def test_starts_are_in_the_order_of_submissions_and_restarts(tmp_path: Path) -> None:
    sweep = Sweep(path=tmp_path, scheduler="slurm")
    job = JobRecord(number=3, overrides=[], ids=["90", "12_3", "13"])
    assert sweep.starts(job) == []
    expected = ["90.0", "90.2", "90.10", "12_3.0", "12_3.1", "13.0"]
    for name in sorted(expected):
        (sweep.job_dir(job) / name).mkdir(parents=True)
    for name in ("returned.pkl", "returned.pkl.tmp"):
        (sweep.job_dir(job) / name).touch()
    assert [folder.name for folder in sweep.starts(job)] == expected
    assert sweep.job_dir(job) == tmp_path / ".jobs/3"


@pytest.mark.parametrize("ids", [[], ["90"]])
def test_a_job_may_start_before_its_id_is_written_down(tmp_path: Path, ids: list[str]) -> None:
    """That start counts as soon as its job is known."""
    sweep = Sweep(path=tmp_path, scheduler="slurm")
    job = JobRecord(number=0, overrides=[], ids=ids)
    known = [f"{id}.0" for id in ids]
    for name in [*known, "91.0"]:
        (sweep.job_dir(job) / name).mkdir(parents=True)
    assert [folder.name for folder in sweep.starts(job)] == known
    job.ids.append("91")
    assert [folder.name for folder in sweep.starts(job)] == [*known, "91.0"]


def test_outputs_are_those_of_the_last_submission(tmp_path: Path) -> None:
    sweep = Sweep(path=tmp_path, scheduler="slurm")
    job = JobRecord(number=0, overrides=[], ids=["12_0", "15"])
    for name in ("12_0/12_0_0_log.out", "15/15_1_log.out", "15/15_0_log.err", "15/15_0_log.out", "15/15_submitted.pkl"):
        file = tmp_path / ".submitit" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    assert [file.name for file in sweep.outputs(job)] == ["15_0_log.err", "15_0_log.out", "15_1_log.out"]
    assert list(sweep.outputs(JobRecord(number=1, overrides=[]))) == []


def test_jobs_are_found_by_number(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path)
    assert sweep.job(1) is sweep.jobs[1]
    assert sweep.job(2) is None
    assert {state for state in JobState if state.ended} == {JobState.done, JobState.failed, JobState.cancelled}
