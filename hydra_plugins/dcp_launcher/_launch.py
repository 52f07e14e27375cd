"""From the overrides of a sweep to jobs that run, and back to what Hydra's sweeper expects of a launcher."""

from __future__ import annotations

import gc
import logging
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides
from hydra.errors import CompactHydraException
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict
from submitit import Job
from submitit.core.utils import FailedJobError, pickle_load
from submitit.local.local import LocalJob

from dcp_runner.launch.leading import RunFailed
from dcp_runner.launch.prepare import discard_if_empty
from dcp_runner.sweep import record
from dcp_runner.sweep.code import copy_code, note_code
from dcp_runner.sweep.follow import first_words, look, summary, wait
from dcp_runner.sweep.record import JobState, Sweep
from dcp_runner.sweep.scheduler import NoAnswerError
from hydra_plugins.dcp_launcher._job import RETURNED
from hydra_plugins.dcp_launcher._shape import Planned, plan, unfit_to_optimise, without_time
from hydra_plugins.dcp_launcher._submit import batch_scripts, submit_here, submit_to_slurm, travelling

log = logging.getLogger(__name__)
_BASIC = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


class NotSubmitted(CompactHydraException):
    """A sweep that cannot be submitted as it is; the text tells why, and what to do."""


def launch(
    scheduler: str,
    context: HydraContext,
    task: TaskFunction,
    config: DictConfig,
    job_overrides: Sequence[Sequence[str]],
    first: int,
    options: Mapping[str, Any],
) -> Sequence[JobReturn]:
    """Submit all jobs, and wait for them unless told otherwise; their returns in order.

    1. read every job's configuration, and refuse the sweep if anything is wrong with one
    2. with `dry_run`, show scripts and plans, and return
    3. find out which jobs are left to do (`resume_sweep`), and note them and the code
    4. submit, grouped by shape
    5. wait; a job that failed has status FAILED, and whoever asks for its value gets the reason

    Raises:
        NotSubmitted: nothing has been started.
    """
    configure_log(config.hydra.hydra_logging, config.hydra.verbose)
    folder = Path(str(config.hydra.sweep.dir)).absolute()
    jobs = [
        plan(
            _composed(context, config, overrides, number), number, filter_overrides(list(overrides)), folder, scheduler
        )
        for number, overrides in enumerate(job_overrides, first)
    ]
    notice_s = options["signal_delay_s"]
    _refuse([problem for job in jobs for problem in (*job.problems, *without_time(job, notice_s))])
    if config.hydra.sweeper._target_ != _BASIC:
        _refuse(unfit_to_optimise(jobs, config.hydra.sweeper._target_, options["wait"]))
    if jobs and all(job.is_dry for job in jobs):
        _show(scheduler, Sweep(path=folder, scheduler=scheduler), jobs, options)
        return [_returned(job.cfg, JobStatus.COMPLETED, None) for job in jobs]
    sweep, left = _opened(folder, scheduler, jobs)
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


def _of_task(overrides: Sequence[str]) -> list[str]:
    return list(filter_overrides(list(overrides)))


def _composed(context: HydraContext, config: DictConfig, overrides: Sequence[str], number: int) -> DictConfig:
    composed = context.config_loader.load_sweep_config(config, list(overrides))
    with open_dict(composed):
        composed.hydra.job.id = composed.hydra.job.num = number
    return composed


def _refuse(problems: Sequence[str]) -> None:
    if problems:
        lines = "".join(f"\n  * {problem}" for problem in dict.fromkeys(problems))
        raise NotSubmitted(f"nothing was submitted:{lines}")


def _opened(folder: Path, scheduler: str, jobs: Sequence[Planned]) -> tuple[Sweep, list[Planned]]:
    """The record of the sweep with these jobs in it, and the jobs that are to be submitted: not those that are done or
    under way.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / record.FILE).exists():
        code = note_code(Path.cwd(), folder)
        fresh = [job.record for job in jobs]
        return Sweep(path=folder, scheduler=scheduler, command=sys.argv[1:], code=code, jobs=fresh), list(jobs)
    sweep = record.read(folder)
    try:
        look(sweep)
    except NoAnswerError as error:
        _refuse([f"the scheduler does not answer, so nobody knows which jobs are left: {error}"])
    left: list[Planned] = []
    problems: list[str] = []
    for job in jobs:
        old = sweep.job(job.record.number)
        if old is None:
            sweep.jobs.append(job.record)
            left.append(job)
            continue
        if job.run is None:  # somebody else's program begins anew, as with every other launcher
            sweep.jobs[sweep.jobs.index(old)] = job.record
            left.append(job)
            continue
        if job.run.resume_sweep is None:
            problems.append(f"job {old.number}: {folder} holds one already; resume_sweep={folder} does what is left")
        elif old.config != job.record.config and not job.run.resume_sweep_changed:
            was = [text for text in old.overrides if text not in job.record.overrides]
            now = [text for text in job.record.overrides if text not in old.overrides]
            problems.append(
                f"job {old.number}: it was another one (before: {' '.join(was) or 'other defaults'}; "
                f"now: {' '.join(now) or 'other defaults'}); resume_sweep_changed=true does it"
            )
        again = not old.ids or old.state in (JobState.failed, JobState.cancelled)
        job.record = replace(job.record, ids=old.ids, attempts=old.attempts) if again else old
        sweep.jobs[sweep.jobs.index(old)] = job.record
        left += [job] if again else []
    _refuse(problems)
    return sweep, left


def _submit(
    sweep: Sweep, jobs: Sequence[Planned], context: HydraContext, task: TaskFunction, options: Mapping[str, Any]
) -> list[Job[None]]:
    setup = list(options["setup"])
    if options["snapshot"] and jobs:
        try:
            place = copy_code(Path.cwd(), sweep.path)
        except FileNotFoundError as error:
            _refuse([str(error)])
        first = shlex.quote(f"{place}{os.pathsep}{Path.cwd()}")
        setup += [f"export PYTHONSAFEPATH=1 PYTHONPATH={first}${{PYTHONPATH:+:$PYTHONPATH}}"]
    ready = travelling(jobs, sweep, context, task)
    sweep.write()
    try:
        return (submit_to_slurm if sweep.scheduler == "slurm" else submit_here)(sweep, ready, options, setup)
    except (FailedJobError, RuntimeError) as error:
        here = [str(job.record.number) for job in jobs if job.record.ids]
        done = f"; submitted are only the jobs {', '.join(here)}" if here else ""
        raise NotSubmitted(f"{sweep.scheduler} takes no job{done}: {error}") from error


def _show(scheduler: str, sweep: Sweep, jobs: Sequence[Planned], options: Mapping[str, Any]) -> None:
    """Scripts and plans of jobs that are not submitted, one of each kind."""
    from dcp_runner.plan_view import show_plan

    if scheduler == "slurm":
        print(*batch_scripts(sweep, jobs, options, list(options["setup"])), sep="\n")
    shown: list[Any] = []
    for job in jobs:
        if job.run and (job.run.parallel, job.run.model, job.run.sharing) not in shown:
            shown.append((job.run.parallel, job.run.model, job.run.sharing))
            print(f"== plan of job {job.record.number}: {' '.join(job.record.overrides)}\n{show_plan(job.run)}")
    (sweep.path / "multirun.yaml").unlink(missing_ok=True)  # which Hydra's sweeper writes before it asks us
    discard_if_empty(sweep.path)


def _results(sweep: Sweep, jobs: Sequence[Planned]) -> list[JobReturn]:
    returns = []
    for job in jobs:
        record = job.record
        file = sweep.notes(record) / RETURNED
        kept: JobReturn | None = pickle_load(file) if file.exists() else None
        if record.state is JobState.done:
            returns.append(kept or _returned(job.cfg, JobStatus.COMPLETED, None))
            continue
        logs = first_words(sweep, record)
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
