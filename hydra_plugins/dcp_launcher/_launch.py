"""From the overrides of a sweep to running jobs, and back to what Hydra's sweeper expects of a launcher."""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from hydra.errors import CompactHydraException
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict
from submitit import Job, LocalJob

from dcp_runner.common.errors import ConfigError
from dcp_runner.common.folders import obstacle
from dcp_runner.launch.preflight.gc_pause import gc_paused
from dcp_runner.launch.preflight.hydra_private import BASIC_SWEEPER
from dcp_runner.launch.preflight.resolve import remove_empty_dir
from dcp_runner.launch.preflight.sweep_folders import JobFolder, blocked_folders, shared_folders
from dcp_runner.sweep.provenance import copy_code
from dcp_runner.sweep.record import Sweep
from dcp_runner.sweep.status import wait
from hydra_plugins.dcp_launcher._config import DcpLauncherConfig, DcpLocalConfig, DcpSlurmConfig
from hydra_plugins.dcp_launcher._planned import PlannedJob, check_objective, check_time_limit, describe_job
from hydra_plugins.dcp_launcher._remaining import open_or_resume
from hydra_plugins.dcp_launcher._results import results, returned
from hydra_plugins.dcp_launcher._submit import batch_scripts, build_payloads, submit_here, submit_to_slurm

log = logging.getLogger(__name__)


class SubmissionError(CompactHydraException):
    """Why a sweep cannot be submitted, and what to do about it."""


def launch(
    context: HydraContext,
    task: TaskFunction,
    config: DictConfig,
    job_overrides: Sequence[Sequence[str]],
    first: int,
    options: DcpLauncherConfig,
    job_folders: list[JobFolder],
) -> Sequence[JobReturn]:
    """Submit all jobs and, with `wait`, wait for them; returns their results in order. `job_folders` holds the folders
    of earlier jobs of this sweep; those of these jobs are added.

    1. read the configuration of every job, and refuse the sweep if anything is wrong with one
    2. with `dry_run`, show scripts and plans, and return
    3. find the jobs that remain to be run (`resume_sweep`), and record them and the code
    4. submit them, grouped by shape
    5. wait; a failed job has status FAILED, and its value raises the reason

    Raises:
        SubmissionError: nothing has been started, or only the jobs that it names.
    """
    folder = Path(str(config.hydra.sweep.dir)).absolute()
    with gc_paused():
        jobs = _planned(context, config, job_overrides, first, folder, options.scheduler)
        _check(jobs, options, str(config.hydra.sweeper._target_), job_folders)
    if jobs and all(job.is_dry for job in jobs):
        _show(Sweep(path=folder, scheduler=options.scheduler), jobs, options)
        return [returned(job.cfg, JobStatus.COMPLETED, None) for job in jobs]
    with gc_paused():
        sweep, remaining = _open(folder, options.scheduler, jobs)
        handles = _submit(sweep, remaining, context, task, options)
    _log_ids(sweep, remaining)
    if not options.wait:
        shown = shlex.quote(os.path.relpath(folder))
        log.info("submitted; to follow it: dcp-runner status %s  (or wait, logs, results, cancel)", shown)
        return [returned(job.cfg, JobStatus.COMPLETED, job.record.ids[-1]) for job in jobs]
    _wait(sweep, jobs, options.poll_s, handles)
    return results(sweep, jobs)


def _planned(
    context: HydraContext,
    config: DictConfig,
    job_overrides: Sequence[Sequence[str]],
    first: int,
    folder: Path,
    scheduler: str,
) -> list[PlannedJob]:
    jobs = []
    for number, overrides in enumerate(job_overrides, first):
        composed = context.config_loader.load_sweep_config(config, list(overrides))
        with open_dict(composed):
            composed.hydra.job.id = composed.hydra.job.num = number
        jobs.append(describe_job(composed, number, filter_overrides(list(overrides)), folder, scheduler))
    return jobs


def _check(jobs: Sequence[PlannedJob], options: DcpLauncherConfig, sweeper: str, job_folders: list[JobFolder]) -> None:
    """Refuse what is wrong with the jobs, or with all of them together."""
    delay_s = options.signal_delay_s
    _refuse([problem for job in jobs for problem in (*job.problems, *check_time_limit(job, delay_s))])
    job_folders += [job.folder for job in jobs if job.folder]
    _refuse([*shared_folders(job_folders), *blocked_folders(job_folders)])
    if sweeper != BASIC_SWEEPER:
        _refuse(check_objective(jobs, sweeper, options.wait))


def _refuse(problems: Sequence[str]) -> None:
    if problems:
        distinct = list(dict.fromkeys(problems))
        count = f"{len(distinct)} problem{'s' if len(distinct) > 1 else ''}"
        raise SubmissionError("\n  * ".join([f"{count}; nothing was submitted:", *distinct]))


def _open(folder: Path, scheduler: str, jobs: Sequence[PlannedJob]) -> tuple[Sweep, list[PlannedJob]]:
    try:
        sweep, remaining, problems = open_or_resume(folder, scheduler, jobs)
    except OSError as error:
        why = obstacle(folder) or error
        raise SubmissionError(f"nothing was submitted: hydra.sweep.dir={folder} cannot be written: {why}") from error
    _refuse(problems)
    return sweep, remaining


def _submit(
    sweep: Sweep, jobs: Sequence[PlannedJob], context: HydraContext, task: TaskFunction, options: DcpLauncherConfig
) -> list[Job[None]]:
    setup = list(options.setup)
    if options.snapshot and jobs:
        setup += _run_copy(sweep)
    try:
        payloads = build_payloads(jobs, sweep, context, task)
        sweep.write()
        if isinstance(options, DcpSlurmConfig):
            return submit_to_slurm(sweep, payloads, options, setup)
        assert isinstance(options, DcpLocalConfig)
        return submit_here(sweep, payloads, options, setup)
    except (RuntimeError, OSError) as error:
        submitted = [str(job.record.number) for job in jobs if job.record.ids]
        some = f" (submitted before: job {', '.join(submitted)})" if submitted else ""
        local = "\n(hydra/launcher=dcp_local runs the jobs on this machine)" if sweep.scheduler == "slurm" else ""
        raise SubmissionError(f"{sweep.scheduler}: the submission failed{some}: {error}{local}") from error


def _run_copy(sweep: Sweep) -> list[str]:
    """Copy the code, and the shell command by which a job runs the copy."""
    try:
        copy = copy_code(Path.cwd(), sweep.path)
    except OSError as error:
        raise SubmissionError(f"nothing was submitted: {error}") from error
    first = shlex.quote(f"{copy}{os.pathsep}{Path.cwd()}")
    return [f"export PYTHONSAFEPATH=1 PYTHONPATH={first}${{PYTHONPATH:+:$PYTHONPATH}}"]


def _show(sweep: Sweep, jobs: Sequence[PlannedJob], options: DcpLauncherConfig) -> None:
    """Scripts and plans of jobs that are not submitted, one of each kind."""
    from dcp_runner.launch.preflight.trial_build import show_plan

    if isinstance(options, DcpSlurmConfig):
        print(*batch_scripts(sweep, jobs, options, list(options.setup)), sep="\n")
    shown: list[Any] = []
    for job in jobs:
        if job.run and (job.run.parallel, job.run.model, job.run.sharing) not in shown:
            shown.append((job.run.parallel, job.run.model, job.run.sharing))
            try:
                print(f"== plan of job {job.record.number}: {' '.join(job.record.overrides)}\n{show_plan(job.run)}")
            except ConfigError as error:
                _refuse([f"job {job.record.number}: {problem}" for problem in error.problems])
    (sweep.path / "multirun.yaml").unlink(missing_ok=True)  # which Hydra's sweeper writes before it calls a launcher
    remove_empty_dir(sweep.path)


def _log_ids(sweep: Sweep, jobs: Sequence[PlannedJob]) -> None:
    for record in (job.record for job in jobs):
        shape = f"{record.nodes} x {record.tasks_per_node} tasks, " if sweep.scheduler == "slurm" else ""
        own = " ".join(sweep.own_overrides(record))
        log.info("job %d has id %s: %s%s", record.number, record.ids[-1], shape, own)


def _wait(sweep: Sweep, jobs: Sequence[PlannedJob], poll_s: float, handles: Sequence[Job[None]]) -> None:
    shown = shlex.quote(os.path.relpath(sweep.path))
    log.info("waiting; from another shell: dcp-runner status %s  (or logs, results, cancel)", shown)
    try:
        wait(sweep, poll_s, {job.record.number for job in jobs}, log.info)
    except KeyboardInterrupt:
        log.warning("the jobs keep running; to cancel them: dcp-runner cancel %s", shown)
        raise
    for handle in handles:
        if isinstance(handle, LocalJob):
            handle.done()  # reaps its process
