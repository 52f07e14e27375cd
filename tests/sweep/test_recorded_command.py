"""`resume_sweep=DIR` stands for the command that made the sweep."""

from __future__ import annotations

from pathlib import Path

import pytest

from dcp_runner.sweep.record import Sweep
from dcp_runner.sweep.recorded_command import expand_resume_sweep

RECORDED = ["-m", "hydra/launcher=dcp_local", "optim.lr=1e-3,3e-4", "~schedule", "seed=1"]


@pytest.mark.parametrize("arguments", [[], ["name=a"], ["resume_sweep="]])
def test_other_commands_stay_as_they_are(arguments: list[str]) -> None:
    assert expand_resume_sweep(arguments) == arguments


def test_the_recorded_arguments_come_back_and_new_ones_win(tmp_path: Path) -> None:
    Sweep(path=tmp_path, scheduler="local", command=RECORDED).write()
    resume = f"resume_sweep={tmp_path}"
    found = expand_resume_sweep([resume, "seed=2", "--multirun"])
    expected = {"-m", "hydra/launcher=dcp_local", "optim.lr=1e-3,3e-4", "~schedule", resume, "seed=2", "--multirun"}
    assert {*found} == expected | {f"hydra.sweep.dir={tmp_path}"} and len(found) == 8
    assert found[:2] == ["-m", "--multirun"], "Hydra's flags are adjacent"


def test_a_folder_without_a_sweep_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        expand_resume_sweep([f"resume_sweep={tmp_path}"])
    assert exit.value.code == 2
    assert (
        f"resume_sweep={tmp_path}: not a sweep folder (no sweep.json, which sweeps of hydra/launcher=dcp_local and dcp_slurm have)"
        in capsys.readouterr().err
    )
