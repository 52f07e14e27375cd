"""The options of the launchers: which are sbatch's is decided by the class that has them."""

from __future__ import annotations

import inspect
from dataclasses import fields

import pytest
from omegaconf import OmegaConf
from submitit.slurm.slurm import _make_sbatch_string

from hydra_plugins.dcp_launcher._config import LAUNCHERS, DcpLauncherConfig, DcpSlurmConfig, SbatchOptions

SBATCH = [field.name for field in fields(SbatchOptions)]


def test_sbatch_gets_its_own_options_alone() -> None:
    options = DcpSlurmConfig(partition="gpu", wait=False, srun_args=["--mpi=none"])
    assert options.sbatch() == dict.fromkeys(SBATCH) | {"partition": "gpu"}
    assert not {field.name for field in fields(DcpLauncherConfig)} & {*SBATCH}


@pytest.mark.parametrize("option", SBATCH)
def test_submitit_knows_every_option_of_sbatch(option: str) -> None:
    assert option in inspect.signature(_make_sbatch_string).parameters


@pytest.mark.parametrize("config", LAUNCHERS.values())
def test_hydra_accepts_the_options(config: type[DcpLauncherConfig]) -> None:
    node = OmegaConf.structured(config)
    assert node.mode == "MULTIRUN" and "scheduler" not in node
    options = {name: value for name, value in node.items() if name != "_target_"}
    assert config(**options).setup == []
