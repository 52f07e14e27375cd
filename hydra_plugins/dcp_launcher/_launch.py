"""From the overrides of a sweep to jobs that run, and back to what Hydra's sweeper expects of a launcher."""

from __future__ import annotations

import gc
import logging
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides
from hydra.errors import CompactHydraException
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict
from submitit import Job
from submitit.core.utils import FailedJobError, pickle_load
from submitit.local.local import LocalJob

from dcp_runner.common.errors import ConfigError
from dcp_runner.common.run_dir import obstacle
from dcp_runner.launch.broadcast import RunFailed
from dcp_runner.launch.preflight.hydra_private import BASIC_SWEEPER
from dcp_runner.launch.preflight.resolve import remove_empty_dir
from dcp_runner.launch.preflight.sweep_folders import JobFolder, blocked_folders, shared_folders
from dcp_runner.sweep.provenance import copy_code
from dcp_runner.sweep.record import JobState, Sweep
from dcp_runner.sweep.status import most_useful_logs, summary, wait
from hydra_plugins.dcp_launcher._job import RETURNED
from hydra_plugins.dcp_launcher._planned import PlannedJob, check_objective, check_time_limit, describe_job
from hydra_plugins.dcp_launcher._remaining import open_or_resume
from hydra_plugins.dcp_launcher._submit import batch_scripts, build_payloads, submit_here, submit_to_slurm

log = logging.getLogger(__name__)


class SubmissionError(CompactHydraException):
    """A sweep that cannot be submitted as it is; the text tells why, and what to do."""


def launch(
    scheduler: str,
    context: HydraContext,
    task: TaskFunction,
    config: DictConfig,
    job_overrides: Sequence[Sequence[str]],
    first: int,
    options: Mapping[str, Any],
    places: list[JobFolder],
) -> Sequence[JobReturn]:
    """Submit all jobs, and wait for them unless told otherwise; their returns in order. `places` are those of the
    jobs before them in this sweep; theirs are added.

    1. read every job's configuration, and refuse the sweep if anything is wrong with one
    2. with `dry_run`, show scripts and plans, and return
    3. find out which jobs are left to do (`resume_sweep`), and note them and the code
    4. submit, grouped by shape
    5. wait; a job that failed has status FAILED, and whoever asks for its value gets the reason

    Raises:
        SubmissionError: nothing has been started.
    """
    configure_log(config.hydra.hydra_logging, config.hydra.verbose)
    folder = Path(str(config.hydra.sweep.dir)).absolute()
    jobs = [
        describe_job(
            _composed(context, config, overrides, number), number, filter_overrides(list(overrides)), folder, scheduler
        )
        for number, overrides in enumerate(job_overrides, first)
    ]
    notice_s = options["signal_delay_s"]
    _refuse([problem for job in jobs for problem in (*job.problems, *check_time_limit(job, notice_s))])
    places += [job.place for job in jobs if job.place]
    _refuse([*shared_folders(places), *blocked_folders(places)])
    if config.hydra.sweeper._target_ != BASIC_SWEEPER:
        _refuse(check_objective(jobs, config.hydra.sweeper._target_, options["wait"]))
    if jobs and all(job.is_dry for job in jobs):
        _show(scheduler, Sweep(path=folder, scheduler=scheduler), jobs, options)
        return [_returned(job.cfg, JobStatus.COMPLETED, None) for job in jobs]
    try:
        sweep, left, problems = open_or_resume(folder, scheduler, jobs)
    except OSError as error:
        why = obstacle(folder) or error
        raise SubmissionError(f"nothing was submitted: hydra.sweep.dir={folder} cannot be written: {why}") from error
    _refuse(problems)
    handles = _submit(sweep, left, context, task, options)
    gc.freeze()  # all that was composed stays to the end, and is not looked through there either
    gc.enable()
    for job in left:
        shape = f"{job.record.nodes} x {job.record.tasks_per_node} tasks, " if scheduler == "slurm" else ""
        own = " ".join(sweep.own_overrides(job.record))
        log.info("job %d is %s: %s%s", job.record.number, job.record.ids[-1], shape, own)
    shown = shlex.quote(os.path.relpath(folder))
    if not options["wait"]:
        log.info("submitted; follow it with  dcp-runner status %s  (or wait, logs, cancel, results)", shown)
        return [_returned(job.cfg, JobStatus.COMPLETED, job.record.ids[-1]) for job in jobs]
    log.info("waiting; from another shell: dcp-runner status %s  (or logs, cancel)", shown)
    try:
        wait(sweep, options["poll_s"], {job.record.number for job in jobs}, log.info)
    except KeyboardInterrupt:
        log.warning("the jobs go on; dcp-runner cancel %s ends them", shown)
        raise
    for handle in handles:
        if isinstance(handle, LocalJob):
            handle.done()  # takes note of the end of its process
    return _results(sweep, jobs)


def _composed(context: HydraContext, config: DictConfig, overrides: Sequence[str], number: int) -> DictConfig:
    composed = context.config_loader.load_sweep_config(config, list(overrides))
    with open_dict(composed):
        composed.hydra.job.id = composed.hydra.job.num = number
    return composed


def _refuse(problems: Sequence[str]) -> None:
    if problems:
        lines = "".join(f"\n  * {problem}" for problem in dict.fromkeys(problems))
        raise SubmissionError(f"nothing was submitted:{lines}")


def _submit(
    sweep: Sweep, jobs: Sequence[PlannedJob], context: HydraContext, task: TaskFunction, options: Mapping[str, Any]
) -> list[Job[None]]:
    setup = list(options["setup"])
    if options["snapshot"] and jobs:
        try:
            place = copy_code(Path.cwd(), sweep.path)
        except OSError as error:
            _refuse([str(error)])
        first = shlex.quote(f"{place}{os.pathsep}{Path.cwd()}")
        setup += [f"export PYTHONSAFEPATH=1 PYTHONPATH={first}${{PYTHONPATH:+:$PYTHONPATH}}"]
    try:
        ready = build_payloads(jobs, sweep, context, task)
        sweep.write()
        return (submit_to_slurm if sweep.scheduler == "slurm" else submit_here)(sweep, ready, options, setup)
    except (FailedJobError, RuntimeError, OSError) as error:
        taken = [str(job.record.number) for job in jobs if job.record.ids]
        done = f"; submitted are only the jobs {', '.join(taken)}" if taken else ""
        here = "\n(hydra/launcher=dcp_local runs the jobs on this machine)" if sweep.scheduler == "slurm" else ""
        raise SubmissionError(f"{sweep.scheduler} takes no job{done}: {error}{here}") from error


def _show(scheduler: str, sweep: Sweep, jobs: Sequence[PlannedJob], options: Mapping[str, Any]) -> None:
    """Scripts and plans of jobs that are not submitted, one of each kind."""
    from dcp_runner.launch.preflight.trial_build import show_plan

    if scheduler == "slurm":
        print(*batch_scripts(sweep, jobs, options, list(options["setup"])), sep="\n")
    shown: list[Any] = []
    for job in jobs:
        if job.run and (job.run.parallel, job.run.model, job.run.sharing) not in shown:
            shown.append((job.run.parallel, job.run.model, job.run.sharing))
            try:
                print(f"== plan of job {job.record.number}: {' '.join(job.record.overrides)}\n{show_plan(job.run)}")
            except ConfigError as error:
                _refuse([f"job {job.record.number}: {problem}" for problem in error.problems])
    (sweep.path / "multirun.yaml").unlink(missing_ok=True)  # which Hydra's sweeper writes before it asks us
    remove_empty_dir(sweep.path)


def _results(sweep: Sweep, jobs: Sequence[PlannedJob]) -> list[JobReturn]:
    returns = []
    for job in jobs:
        record = job.record
        file = sweep.notes(record) / RETURNED
        kept: JobReturn | None = pickle_load(file) if file.exists() else None
        if record.state is JobState.done:
            returns.append(kept or _returned(job.cfg, JobStatus.COMPLETED, None))
            continue
        logs = most_useful_logs(sweep, record)
        if logs:
            log.error("job %d %s; its log: %s", record.number, record.state, logs[0])
        if kept is None or kept.status is not JobStatus.FAILED:
            kept = _returned(job.cfg, JobStatus.FAILED, RunFailed(f"job {record.number} {record.state}: {record.told}"))
        returns.append(kept)
    log.info("%s", summary(sweep))
    return returns


def _returned(cfg: DictConfig, status: JobStatus, value: Any) -> JobReturn:
    overrides = [str(override) for override in cfg.hydra.overrides.task]
    returned = JobReturn(cfg=cfg, overrides=overrides, status=status, task_name=cfg.hydra.job.name)
    returned.return_value = value
    return returned
