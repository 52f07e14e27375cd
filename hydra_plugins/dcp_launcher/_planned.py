"""A job of a sweep before it is submitted: what is wrong with it, and what it needs from its scheduler."""

from __future__ import annotations

import os
from collections.abc import Sequence
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
from dcp_runner.launch.preflight.sweep_folders import JobFolder, hydra_config_set, job_folder_of
from dcp_runner.sweep.record import JobRecord
from hydra_plugins.dcp_launcher._config import DcpSlurmConfig


@dataclass
class PlannedJob:
    """One job before it is submitted."""

    record: JobRecord
    cfg: DictConfig
    run: RunConfig | None
    """None: the app's configuration is not ours; the job is one task."""
    problems: list[str]
    folder: JobFolder | None = None
    """Where it writes; None: as for `run`, or its configuration is invalid."""

    @property
    def is_dry(self) -> bool:
        return self.run is not None and self.run.dry_run


def describe_job(cfg: DictConfig, number: int, overrides: Sequence[str], sweep: Path, scheduler: str) -> PlannedJob:
    """Read the composed configuration of a job: its shape, and what is wrong with it."""
    own = [text for text in overrides if not text.lstrip("+").startswith("resume_sweep")]
    record = JobRecord(number=number, overrides=own)
    run: RunConfig | None = None
    folder: JobFolder | None = None
    found: list[str] = []
    with hydra_config_set(cfg):
        record.folder = os.path.relpath(sweep / str(cfg.hydra.sweep.subdir), sweep)
        if "parallel" in cfg and "resources" in cfg:
            try:
                run = resolve_config(cfg, None)
                found = check_config(run)
                folder = job_folder_of(cfg, number, overrides)
            except ConfigError as error:
                found = list(error.problems)
    if run is not None:
        record.config = config_hash(run)
        if scheduler == "slurm" and not found:
            record.nodes = run.resources.nodes
            record.tasks_per_node = run.parallel.world_size // run.resources.nodes
    return PlannedJob(record, cfg, run, [f"job {number}: {problem}" for problem in found], folder)


def check_time_limit(job: PlannedJob, signal_delay_s: int) -> list[str]:
    """What is wrong with its time limit: the stop signal would come before the first step, at every start."""
    limit_min = job.run.resources.time_min if job.run else None
    if limit_min is None or limit_min * 60 > signal_delay_s:
        return []
    return [
        f"job {job.record.number}: resources.time_min={limit_min} leaves no time to train: the stop signal comes "
        f"hydra.launcher.signal_delay_s={signal_delay_s} seconds before the limit"
    ]


def check_objective(jobs: Sequence[PlannedJob], sweeper: str, wait: bool) -> list[str]:
    """Why a sweeper that chooses the next jobs by the results of these would get no results."""
    problems = [] if wait else [f"hydra.launcher.wait=false: {sweeper} needs the results of the jobs; set wait=true"]
    for run in (job.run for job in jobs if job.run is not None):
        blind = run.trainer.eval_every is None or run.data.eval is None
        if blind and run.optimized_metric == RunConfig.optimized_metric:
            problems.append(
                f"optimized_metric={run.optimized_metric}: nothing is evaluated (trainer.eval_every or data.eval is "
                f"null), so {sweeper} would get no value; set optimized_metric=loss"
            )
    return problems


def sbatch_parameters(job: PlannedJob, options: DcpSlurmConfig, setup: list[str]) -> dict[str, Any]:
    """The parameters from which submitit writes the batch script; it omits those that are None."""
    resources = (job.run or RunConfig()).resources
    device = (job.run or RunConfig()).trainer.device
    gpus = resources.gpus_per_node
    if gpus is None and device is Device.cuda:
        gpus = job.record.tasks_per_node
    cores = resources.cpus_per_task
    # Since SLURM 22.05, srun does not inherit cpus-per-task from the batch job.
    srun = ["--kill-on-bad-exit=1", *([f"--cpus-per-task={cores}"] if cores else []), *options.srun_args]
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
        "signal_delay_s": options.signal_delay_s,
        "array_parallelism": options.array_parallelism,
        "additional_parameters": {"requeue": True, **options.additional_parameters},
        **options.sbatch(),
    }
