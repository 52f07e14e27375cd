"""Which jobs of a sweep remain: of a new, a resumed and a changed one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from planning import planned
from where import SUPPORT

from dcp_runner.sweep.record import JobState, Sweep
from hydra_plugins.dcp_launcher._planned import PlannedJob
from hydra_plugins.dcp_launcher._remaining import open_or_resume


def resumed(folder: Path, number: int, config: str = "same", changed: bool = False) -> PlannedJob:
    """A job of a command with `resume_sweep`."""
    job = planned(number, 1)
    assert job.run is not None
    job.record.config, job.record.overrides = config, [f"seed={number}"]
    job.run.resume_sweep, job.run.resume_sweep_changed = str(folder), changed
    return job


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """A sweep with a job in each state."""
    jobs = [resumed(tmp_path, number).record for number, _ in enumerate(JobState)]
    for job, state in zip(jobs, JobState, strict=True):
        job.state, job.ids, job.attempts = state, ["7"], 1
    jobs[0].ids = []
    Sweep(path=tmp_path, scheduler="slurm", jobs=jobs).write()
    return tmp_path


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The program that stands in for squeue, which says that job 7 runs."""
    program = tmp_path / "bin/squeue"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho '7|RUNNING'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    return program


def test_all_jobs_of_a_new_sweep_remain(tmp_path: Path) -> None:
    jobs = [planned(0, 1), planned(1, 1)]
    sweep, remaining, problems = open_or_resume(tmp_path / "new", "local", jobs)
    assert (remaining, problems) == (jobs, [])
    assert sweep.jobs == [job.record for job in jobs] and sweep.path == tmp_path / "new"


def test_what_has_failed_or_never_ran_remains(recorded: Path, slurm: Path) -> None:
    jobs = [resumed(recorded, number) for number in range(6)]
    sweep, remaining, problems = open_or_resume(recorded, "slurm", jobs)
    assert problems == []
    assert [job.record.number for job in remaining] == [0, 3, 4, 5], "not submitted; failed, cancelled; new"
    assert [job.ids for job in sweep.jobs] == [[], ["7"], ["7"], ["7"], ["7"], []]
    assert [job.state.value for job in sweep.jobs] == ["waiting", "waiting", "done", "waiting", "waiting", "waiting"]
    assert all(job.record is sweep.jobs[job.record.number] for job in jobs)


def test_without_resume_sweep_an_existing_job_is_refused(recorded: Path, slurm: Path) -> None:
    problems = open_or_resume(recorded, "slurm", [planned(2, 1)])[2]
    assert problems == [f"job 2 already exists in {recorded}; resume_sweep={recorded} runs the jobs that remain"]


def test_a_job_that_has_changed_is_refused(recorded: Path, slurm: Path) -> None:
    assert open_or_resume(recorded, "slurm", [resumed(recorded, 3, "other", changed=True)])[2] == []
    job = resumed(recorded, 3, "other")
    job.record.overrides = ["seed=9"]
    (problem,) = open_or_resume(recorded, "slurm", [job])[2]
    assert "job 3 has changed since it was submitted (before: seed=3; now: seed=9)" in problem
    assert "resume_sweep_changed=true" in problem


def test_a_program_that_is_not_ours_starts_afresh(recorded: Path, slurm: Path) -> None:
    job = planned(2, 1)
    job.run = None
    sweep, remaining, problems = open_or_resume(recorded, "slurm", [job])
    assert (remaining, problems) == ([job], [])
    assert sweep.jobs[2] is job.record and not job.record.ids


def test_a_scheduler_that_does_not_answer(recorded: Path, slurm: Path) -> None:
    slurm.write_text("#!/bin/sh\necho 'Unable to contact' >&2; exit 1\n")
    _, remaining, problems = open_or_resume(recorded, "slurm", [resumed(recorded, 0)])
    assert remaining == []
    assert problems == ["the scheduler does not answer, so it is unknown which jobs remain: Unable to contact"]


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dcp_runner", *arguments]
    environment = os.environ | {"PYTHONPATH": str(SUPPORT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=100)


def jobs(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "s/sweep.json").read_text())["jobs"]
    return found


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_changed_sweep_is_run_only_on_request(tmp_path: Path) -> None:
    launcher = ["hydra/launcher=dcp_local", "hydra.launcher.poll_s=0.2", "hydra.sweep.dir=s"]
    job = ["debug=tiny", "parallel=ddp", "parallel.dp=2", "trainer.max_steps=4", "trainer.eval_every=null"]
    save = ["checkpoint.every_steps=2", f"+callbacks.harm={{_target_: acts.Harm, step: 3, marks: {tmp_path}}}"]
    first = run(tmp_path, *launcher, *job, *save, "+callbacks.harm.what=none,raise")
    assert first.returncode != 0
    before = jobs(tmp_path)
    assert [job["state"] for job in before] == ["done", "failed"]

    refused = run(tmp_path, "resume_sweep=s", "trainer.max_steps=6")
    assert refused.returncode != 0
    assert (
        "job 1 has changed since it was submitted (before: trainer.max_steps=4; now: trainer.max_steps=6)"
        in refused.stderr
    )
    assert jobs(tmp_path) == before

    forced = run(tmp_path, "resume_sweep=s", "trainer.max_steps=6", "resume_sweep_changed=true")
    assert forced.returncode == 0, forced.stdout + forced.stderr
    done, again = jobs(tmp_path)
    assert done == before[0], "what is done is done"
    assert (again["state"], again["attempts"], len(again["ids"])) == ("done", 2, 2)
    assert "trainer.max_steps=6" in again["overrides"]
    assert not any("resume_sweep" in text for text in again["overrides"])
    lines = [json.loads(line) for line in (tmp_path / "s/1/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "grad_norm" in line] == [1, 2, 3, 3, 4, 5, 6]
