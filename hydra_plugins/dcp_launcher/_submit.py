"""Handing jobs to submitit: as arrays of SLURM, one for each shape, or as processes of this machine."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from hydra.types import HydraContext, TaskFunction
from submitit import Job, LocalExecutor, SlurmExecutor
from submitit.slurm.slurm import _make_sbatch_string  # what SlurmExecutor writes, also where there is no SLURM

from dcp_runner.sweep.record import JOBS, SUBMITIT, Sweep
from dcp_runner.sweep.scheduler import Slurm
from hydra_plugins.dcp_launcher._job import SharedPayload, SweepJob
from hydra_plugins.dcp_launcher._planned import PlannedJob, sbatch_parameters

_MONTH = 60 * 24 * 30
_AFTER = "while ps -o stat= -p {} | grep -q '^[^Z]'; do sleep 0.5; done"
_PATIENT = """sh -c 'trap "" USR1 USR2; e="env --block-signal=USR1,USR2"; $e true 2>/dev/null || e=; exec $e "$@"' sh"""
"""A notice that comes before Python can take it would kill the task. It is held back; with coreutils older than 8.31
it is lost if it comes while Python starts.
"""


def _task(folder: Path, python: str | None) -> str:
    return f"{_PATIENT} {python or shlex.quote(sys.executable)} -u -m dcp_runner.launch.task {shlex.quote(str(folder))}"


class _FromOurTask:
    folder: Path
    python: str

    @property
    def _submitit_command_str(self) -> str:
        return _task(self.folder, self.python)


class _Slurm(_FromOurTask, SlurmExecutor):
    """Tasks begin with our module."""


class _Local(_FromOurTask, LocalExecutor):
    """The same."""


def build_payloads(
    jobs: Sequence[PlannedJob], sweep: Sweep, context: HydraContext, task: TaskFunction
) -> list[tuple[PlannedJob, SweepJob]]:
    """The jobs as they go to their processes."""
    for planned in jobs:
        sweep.job_dir(planned.record).mkdir(parents=True, exist_ok=True)
    if not jobs:
        return []
    common = SharedPayload(context, task).leave(sweep.path / JOBS)
    return [(planned, SweepJob(common, planned.cfg, sweep.job_dir(planned.record))) for planned in jobs]


def submit_to_slurm(
    sweep: Sweep, jobs: Sequence[tuple[PlannedJob, SweepJob]], options: Mapping[str, Any], setup: list[str]
) -> list[Job[None]]:
    """Jobs of equal shape become one array, or several where they are more than one may have; the record knows their
    ids as soon as they have them.
    """
    executor = _Slurm(sweep.path / SUBMITIT / "%j", python=options["python"])
    submitted: list[tuple[PlannedJob, Job[None]]] = []
    for parameters, group in _arrays([planned for planned, _ in jobs], options, setup):
        numbers = {planned.record.number for planned in group}
        executor.update_parameters(**parameters)
        with executor.batch():
            group_jobs = [(p, executor.submit(job)) for p, job in jobs if p.record.number in numbers]
        submitted += group_jobs
        for planned, job in group_jobs:
            planned.record.ids.append(job.job_id)
        sweep.write()
    return [job for _, job in submitted]


def submit_here(
    sweep: Sweep, jobs: Sequence[tuple[PlannedJob, SweepJob]], options: Mapping[str, Any], setup: list[str]
) -> list[Job[None]]:
    """As processes that outlive this one. Each waits for the end of the one that it takes the place of."""
    executor = _Local(sweep.path / SUBMITIT / "%j", python=options["python"])
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES")  # submitit hides them all
    shown = "unset CUDA_VISIBLE_DEVICES" if gpus is None else f"export CUDA_VISIBLE_DEVICES={shlex.quote(gpus)}"
    printed = shlex.quote(str(sweep.path / SUBMITIT / "local.log"))
    alone = [f"exec </dev/null >>{printed} 2>&1", "trap '' HUP", shown]
    running: list[Job[None]] = []
    for planned, job in jobs:
        ahead = running[-options["parallel_jobs"]] if len(running) >= options["parallel_jobs"] else None
        waiting = [_AFTER.format(ahead.job_id)] if ahead else []
        minutes = planned.run.resources.time_min if planned.run else None
        executor.update_parameters(
            timeout_min=minutes or _MONTH,
            signal_delay_s=options["signal_delay_s"],
            setup=[*alone, *waiting, *setup],
        )
        running.append(executor.submit(job))
        planned.record.ids.append(running[-1].job_id)
        sweep.write()
    return running


def batch_scripts(sweep: Sweep, jobs: Sequence[PlannedJob], options: Mapping[str, Any], setup: list[str]) -> list[str]:
    """What `submit_to_slurm` would give to sbatch, with the jobs that each script is for."""
    scripts = []
    folder = sweep.path / SUBMITIT / "%j"
    for parameters, group in _arrays(jobs, options, setup):
        count = len(group) if len(group) > 1 else None
        numbers = ", ".join(str(planned.record.number) for planned in group)
        text = _make_sbatch_string(
            command=_task(folder, options["python"]), folder=folder, map_count=count, **parameters
        )
        scripts.append(f"== batch script of job {numbers}\n{text}")
    return scripts


def _arrays(
    jobs: Sequence[PlannedJob], options: Mapping[str, Any], setup: list[str]
) -> list[tuple[dict[str, Any], list[PlannedJob]]]:
    longest = Slurm().longest_array()
    shapes = [(sbatch_parameters(planned, options, setup), planned) for planned in jobs]

    def key(pair: tuple[dict[str, Any], PlannedJob]) -> str:
        return json.dumps(pair[0], sort_keys=True, default=str)

    equal = (list(group) for _, group in groupby(sorted(shapes, key=key), key=key))
    arrays = (group[at : at + longest] for group in equal for at in range(0, len(group), longest))
    return sorted(((array[0][0], [planned for _, planned in array]) for array in arrays),
                  key=lambda array: array[1][0].record.number)  # fmt: skip
