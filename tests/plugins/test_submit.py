"""Jobs of equal shape share an array, as far as one may be long; no job is submitted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from planning import planned

from dcp_runner.sweep.record import Sweep
from hydra_plugins.dcp_launcher._config import DcpSlurmConfig
from hydra_plugins.dcp_launcher._submit import batch_scripts

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
