"""What each job of a sweep needs from its scheduler: its own `parallel` and `resources`, and the launcher's options."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from dcp_runner.common.device import Device
from dcp_runner.common.errors import ConfigError
from dcp_runner.config.convert import config_hash
from dcp_runner.config.schema import RunConfig
from dcp_runner.launch.preflight.config_checks import check_config
from dcp_runner.launch.preflight.resolve import resolve_config
from dcp_runner.launch.preflight.sweep_folders import JobFolder, hydra_config_set, place_of
from dcp_runner.sweep.record import JobRecord

_NOT_SBATCH = {
    "wait",
    "poll_s",
    "snapshot",
    "mode",
    "python",
    "setup",
    "srun_args",
    "additional_parameters",
    "parallel_jobs",
}


@dataclass
class PlannedJob:
    """One job before it is submitted."""

    record: JobRecord
    cfg: DictConfig
    run: RunConfig | None
    """None: the app's configuration is not ours; the job is one task."""
    problems: list[str]
    place: JobFolder | None = None
    """Where it writes; None: as for `run`, or something is wrong with it."""

    @property
    def is_dry(self) -> bool:
        return self.run is not None and self.run.dry_run


def describe_job(cfg: DictConfig, number: int, overrides: Sequence[str], sweep: Path, scheduler: str) -> PlannedJob:
    """Read a composed job's configuration: its shape, and what is wrong with it."""
    own = [text for text in overrides if not text.lstrip("+").startswith("resume_sweep")]
    record = JobRecord(number=number, overrides=own)
    run: RunConfig | None = None
    place: JobFolder | None = None
    found: list[str] = []
    with hydra_config_set(cfg):
        record.folder = os.path.relpath(sweep / str(cfg.hydra.sweep.subdir), sweep)
        if "parallel" in cfg and "resources" in cfg:
            try:
                run = resolve_config(cfg, None)
                found = check_config(run)
                place = place_of(cfg, number, overrides)
            except ConfigError as error:
                found = list(error.problems)
    if run is not None:
        record.config = config_hash(run)
        if scheduler == "slurm" and not found:
            record.nodes = run.resources.nodes
            record.tasks_per_node = run.parallel.world_size // run.resources.nodes
    return PlannedJob(record, cfg, run, [f"job {number}: {problem}" for problem in found], place)


def check_time_limit(job: PlannedJob, notice_s: int) -> list[str]:
    """What is wrong with its time limit: the notice would come before the first step, at every start again."""
    limit_min = job.run.resources.time_min if job.run else None
    if limit_min is None or limit_min * 60 > notice_s:
        return []
    return [
        f"job {job.record.number}: resources.time_min={limit_min}: the job is told to stop "
        f"hydra.launcher.signal_delay_s={notice_s} seconds before its limit, which leaves no time to train"
    ]


def check_objective(jobs: Sequence[PlannedJob], sweeper: str, wait: bool) -> list[str]:
    """Why a sweeper that chooses its next jobs by the results of these would get none."""
    told = [] if wait else [f"hydra.launcher.wait=false: {sweeper} needs the results; take wait=true"]
    for run in (job.run for job in jobs if job.run is not None):
        blind = run.trainer.eval_every is None or run.data.eval is None
        if blind and run.optimized_metric == RunConfig.optimized_metric:
            told.append(
                f"optimized_metric={run.optimized_metric}: nothing is evaluated (trainer.eval_every or data.eval is "
                f"null), so {sweeper} would get no value; take optimized_metric=loss"
            )
    return told


def sbatch_parameters(job: PlannedJob, options: Mapping[str, Any], setup: list[str]) -> dict[str, Any]:
    """What submitit is to write into the batch script; None: left out of it."""
    resources = (job.run or RunConfig()).resources
    device = (job.run or RunConfig()).trainer.device
    gpus = resources.gpus_per_node
    if gpus is None and device is Device.cuda:
        gpus = job.record.tasks_per_node
    cores = resources.cpus_per_task
    # Since SLURM 22.05 srun does not take over the batch job's cpus-per-task.
    srun = ["--kill-on-bad-exit=1", *([f"--cpus-per-task={cores}"] if cores else []), *options["srun_args"]]
    return {
        "job_name": str(job.cfg.hydra.job.name),
        "nodes": job.record.nodes,
        "ntasks_per_node": job.record.tasks_per_node,
        "gpus_per_node": gpus or None,
        "cpus_per_task": cores,
        "time": resources.time_min,
        "mem": None if resources.mem_gb is None else f"{int(resources.mem_gb * 1024)}MB",
        "wckey": None,
        "setup": [f"export OMP_NUM_THREADS=${{OMP_NUM_THREADS:-{cores or 1}}}", *setup],
        "srun_args": srun,
        "additional_parameters": {"requeue": True, **options["additional_parameters"]},
        **{name: value for name, value in options.items() if name not in _NOT_SBATCH},
    }
