"""What is wrong with a planned job, and what it asks of sbatch; no job is submitted."""

from __future__ import annotations

import pytest
from planning import planned

from dcp_runner.common.device import Device
from dcp_runner.config.schema import ResourcesConfig, RunConfig
from dcp_runner.train.config import TrainerConfig
from hydra_plugins.dcp_launcher._config import DcpSlurmConfig
from hydra_plugins.dcp_launcher._planned import check_objective, check_time_limit, sbatch_parameters


@pytest.mark.parametrize(
    ("time_min", "signal_delay_s", "refused"), [(None, 120, False), (2, 119, False), (2, 120, True), (1, 120, True)]
)
def test_a_time_limit_that_leaves_nothing_before_the_stop_signal(
    time_min: int | None, signal_delay_s: int, refused: bool
) -> None:
    found = check_time_limit(planned(3, 1, time_min), signal_delay_s)
    assert bool(found) == refused
    assert not found or ("job 3: resources.time_min=" in found[0] and f"signal_delay_s={signal_delay_s}" in found[0])


def test_a_sweeper_that_needs_results_gets_some() -> None:
    job = planned(0, 1)
    assert job.run is not None
    job.run.trainer.eval_every = None
    assert len(check_objective([job], "mine.Sweeper", wait=True)) == 1
    assert len(check_objective([job], "mine.Sweeper", wait=False)) == 2
    job.run.optimized_metric = "loss"
    assert check_objective([job], "mine.Sweeper", wait=True) == []


def test_options_and_resources_become_parameters_of_sbatch() -> None:
    options = DcpSlurmConfig(
        partition="gpu",
        signal_delay_s=60,
        array_parallelism=5,
        srun_args=["--mpi=none"],
        additional_parameters={"reservation": "lab", "requeue": False},
    )
    job = planned(0, 4, time_min=30)
    job.run = RunConfig(
        resources=ResourcesConfig(time_min=30, cpus_per_task=6, mem_gb=1.5), trainer=TrainerConfig(device=Device.cuda)
    )
    found = sbatch_parameters(job, options, ["module load cuda"])
    assert {name: value for name, value in found.items() if value is not None} == {
        "job_name": "mine",
        "nodes": 1,
        "ntasks_per_node": 4,
        "gpus_per_node": 4,
        "cpus_per_task": 6,
        "time": 30,
        "mem": "1536MB",
        "setup": ["export OMP_NUM_THREADS=${OMP_NUM_THREADS:-6}", "module load cuda"],
        "srun_args": ["--kill-on-bad-exit=1", "--cpus-per-task=6", "--mpi=none"],
        "partition": "gpu",
        "signal_delay_s": 60,
        "array_parallelism": 5,
        "additional_parameters": {"requeue": False, "reservation": "lab"},
    }
