"""Handing jobs to submitit: as SLURM arrays, one for each shape, or as processes of this machine."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from hydra.types import HydraContext, TaskFunction
from submitit import Job

from dcp_runner.launch.submitit_private import LocalTasks, SlurmTasks, batch_script
from dcp_runner.sweep.record import JOBS, SUBMITIT, Sweep
from dcp_runner.sweep.scheduler import Slurm
from hydra_plugins.dcp_launcher._config import DcpLocalConfig, DcpSlurmConfig
from hydra_plugins.dcp_launcher._planned import PlannedJob, sbatch_parameters
from hydra_plugins.dcp_launcher._sweep_job import SharedPayload, SweepJob

_MONTH_MIN = 60 * 24 * 30
_WAIT_FOR = "while ps -o stat= -p {} | grep -q '^[^Z]'; do sleep 0.5; done"
_BLOCK_SIGNALS = (
    """sh -c 'trap "" USR1 USR2; e="env --block-signal=USR1,USR2"; $e true 2>/dev/null || e=; exec $e "$@"' sh"""
)
"""A stop signal that comes before Python can handle it would kill the task, so it is blocked; with coreutils older than
8.31 it is ignored, and so lost, if it comes while Python starts.
"""


def task_command(folder: Path, python: str | None) -> str:
    """The command line of one task of a job whose submission files are in `folder`."""
    python = python or shlex.quote(sys.executable)
    return f"{_BLOCK_SIGNALS} {python} -u -m dcp_runner.launch.task {shlex.quote(str(folder))}"


def build_payloads(
    jobs: Sequence[PlannedJob], sweep: Sweep, context: HydraContext, task: TaskFunction
) -> list[tuple[PlannedJob, SweepJob]]:
    """The jobs as they are sent to their processes."""
    for planned in jobs:
        sweep.job_dir(planned.record).mkdir(parents=True, exist_ok=True)
    if not jobs:
        return []
    shared = SharedPayload(context, task).write(sweep.path / JOBS)
    return [(planned, SweepJob(shared, planned.cfg, sweep.job_dir(planned.record))) for planned in jobs]


def submit_to_slurm(
    sweep: Sweep, jobs: Sequence[tuple[PlannedJob, SweepJob]], options: DcpSlurmConfig, setup: list[str]
) -> list[Job[None]]:
    """Jobs of equal shape become one array, or several where `MaxArraySize` requires it. Their ids are recorded as soon
    as they are known.
    """
    folder = sweep.path / SUBMITIT / "%j"
    executor = SlurmTasks(folder)
    executor.task_command = task_command(folder, options.python)
    submitted: list[Job[None]] = []
    for parameters, group in _arrays([planned for planned, _ in jobs], options, setup):
        numbers = {planned.record.number for planned in group}
        executor.update_parameters(**parameters)
        with executor.batch():
            of_group = [(planned, executor.submit(job)) for planned, job in jobs if planned.record.number in numbers]
        for planned, handle in of_group:
            planned.record.ids.append(handle.job_id)
            submitted.append(handle)
        sweep.write()
    return submitted


def submit_here(
    sweep: Sweep, jobs: Sequence[tuple[PlannedJob, SweepJob]], options: DcpLocalConfig, setup: list[str]
) -> list[Job[None]]:
    """As processes that outlive this one. Each waits for the end of the job whose slot it takes."""
    folder = sweep.path / SUBMITIT / "%j"
    executor = LocalTasks(folder)
    executor.task_command = task_command(folder, options.python)
    detach = _detach(sweep.path / SUBMITIT / "local.log")
    running: list[Job[None]] = []
    for planned, job in jobs:
        before = running[-options.parallel_jobs :][:1] if len(running) >= options.parallel_jobs else []
        minutes = planned.run.resources.time_min if planned.run else None
        executor.update_parameters(
            timeout_min=minutes or _MONTH_MIN,
            signal_delay_s=options.signal_delay_s,
            setup=[*detach, *(_WAIT_FOR.format(other.job_id) for other in before), *setup],
        )
        running.append(executor.submit(job))
        planned.record.ids.append(running[-1].job_id)
        sweep.write()
    return running


def _detach(printed: Path) -> list[str]:
    """Shell commands for a process that outlives its terminal and sees the GPUs that this one sees."""
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES")  # submitit hides all GPUs
    visible = "unset CUDA_VISIBLE_DEVICES" if gpus is None else f"export CUDA_VISIBLE_DEVICES={shlex.quote(gpus)}"
    return [f"exec </dev/null >>{shlex.quote(str(printed))} 2>&1", "trap '' HUP", visible]


def batch_scripts(sweep: Sweep, jobs: Sequence[PlannedJob], options: DcpSlurmConfig, setup: list[str]) -> list[str]:
    """What `submit_to_slurm` would pass to sbatch, with the jobs that each script is for."""
    scripts = []
    folder = sweep.path / SUBMITIT / "%j"
    for parameters, group in _arrays(jobs, options, setup):
        size = len(group) if len(group) > 1 else None
        numbers = ", ".join(str(planned.record.number) for planned in group)
        text = batch_script(task_command(folder, options.python), folder, size, parameters)
        scripts.append(f"== batch script of job {numbers}\n{text}")
    return scripts


def _arrays(
    jobs: Sequence[PlannedJob], options: DcpSlurmConfig, setup: list[str]
) -> list[tuple[dict[str, Any], list[PlannedJob]]]:
    longest = Slurm().longest_array()
    shapes = [(sbatch_parameters(planned, options, setup), planned) for planned in jobs]

    def key(pair: tuple[dict[str, Any], PlannedJob]) -> str:
        return json.dumps(pair[0], sort_keys=True, default=str)

    equal = (list(group) for _, group in groupby(sorted(shapes, key=key), key=key))
    arrays = (group[at : at + longest] for group in equal for at in range(0, len(group), longest))
    return sorted(((array[0][0], [planned for _, planned in array]) for array in arrays),
                  key=lambda array: array[1][0].record.number)  # fmt: skip
