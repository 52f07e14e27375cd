"""What is given to submitit: arrays of jobs of equal shape, and processes of this machine; no job does anything."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from planning import planned

from dcp_runner.sweep.record import Sweep, read
from hydra_plugins.dcp_launcher._config import DcpLocalConfig, DcpSlurmConfig
from hydra_plugins.dcp_launcher._planned import PlannedJob
from hydra_plugins.dcp_launcher._submit import batch_scripts, submit_here, submit_to_slurm
from hydra_plugins.dcp_launcher._sweep_job import SweepJob

OPTIONS = DcpSlurmConfig()


@pytest.mark.parametrize(
    ("longest", "tasks", "expected"),
    [
        (1001, [1, 1, 1], ["0, 1, 2"]),
        (1001, [1, 2, 1, 4, 2], ["0, 2", "1, 4", "3"]),
        (2, [1, 1, 1, 1, 1], ["0, 1", "2, 3", "4"]),
        (2, [1, 2, 1, 2, 1], ["0, 2", "1, 3", "4"]),
        (1, [1, 1], ["0", "1"]),
    ],
)
def test_which_jobs_share_an_array(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, longest: int, tasks: list[int], expected: list[str]
) -> None:
    (tmp_path / "scontrol").write_text(f"#!/bin/sh\necho 'MaxArraySize            = {longest}'\n")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    jobs = [planned(number, count) for number, count in enumerate(tasks)]
    scripts = batch_scripts(Sweep(path=tmp_path, scheduler="slurm"), jobs, OPTIONS, [])
    assert [script.splitlines()[0].removeprefix("== batch script of job ") for script in scripts] == expected
    for script, numbers in zip(scripts, expected, strict=True):
        count = len(numbers.split(", "))
        assert (f"#SBATCH --array=0-{count - 1}%" in script) == (count > 1)
        assert f"--ntasks-per-node={tasks[int(numbers.split(', ')[0])]}" in script


def test_python_may_be_another_one(tmp_path: Path) -> None:
    options = replace(OPTIONS, python="apptainer exec lab.sif python3")
    (script,) = batch_scripts(Sweep(path=tmp_path, scheduler="slurm"), [planned(0, 1)], options, [])
    assert "sh apptainer exec lab.sif python3 -u -m dcp_runner.launch.task" in script


def test_other_resources_are_another_array(tmp_path: Path) -> None:
    jobs = [planned(0, 1, 10), planned(1, 1, 20), planned(2, 1, 10)]
    scripts = batch_scripts(Sweep(path=tmp_path, scheduler="slurm"), jobs, OPTIONS, [])
    assert ["--time=10" in script for script in scripts] == [True, False]


def submitted(sweep: Path) -> list[list[str]]:
    return [job.ids for job in read(sweep).jobs]


def test_every_job_knows_its_id_in_its_array(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = tmp_path / "calls"
    (tmp_path / "bin").mkdir()
    count = f"echo . >>{calls}; echo Submitted batch job 7$(wc -l <{calls})"
    for name, script in {"sbatch": count, "srun": "", "scontrol": ""}.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    jobs = [planned(number, tasks) for number, tasks in enumerate([1, 2, 1, 4])]
    sweep = Sweep(path=tmp_path, scheduler="slurm", jobs=[job.record for job in jobs])
    handles = submit_to_slurm(sweep, [(job, idle(job, tmp_path)) for job in jobs], OPTIONS, [])
    assert submitted(tmp_path) == [["71_0"], ["72"], ["71_1"], ["73"]]
    assert [handle.job_id for handle in handles] == ["71_0", "71_1", "72", "73"]


def test_local_jobs_wait_for_their_slot(tmp_path: Path) -> None:
    """No more than two at a time: each setup fails before its job starts, and the third waits for the first."""
    jobs = [planned(number, 1) for number in range(3)]
    sweep = Sweep(path=tmp_path, scheduler="local", jobs=[job.record for job in jobs])
    payloads = [(job, idle(job, tmp_path)) for job in jobs]
    handles = submit_here(sweep, payloads, DcpLocalConfig(parallel_jobs=2), [f"echo $$ >>{tmp_path}/started", "false"])
    ids = [ids[0] for ids in submitted(tmp_path)]
    deadline = time.monotonic() + 30
    while not all(handle.done() for handle in handles):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    started = (tmp_path / "started").read_text().split()
    assert sorted(started) == sorted(ids) and started.index(ids[0]) < started.index(ids[2])


def idle(job: PlannedJob, folder: Path) -> SweepJob:
    return SweepJob(folder / "shared.pkl", job.cfg, folder)
