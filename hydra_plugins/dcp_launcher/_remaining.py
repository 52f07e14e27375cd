"""Which jobs of a sweep remain to be run: all of a new sweep; of a resumed one those that failed or never ran."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from dcp_runner.sweep import record
from dcp_runner.sweep.provenance import record_code
from dcp_runner.sweep.record import JobState, Sweep
from dcp_runner.sweep.scheduler import SchedulerUnavailable
from dcp_runner.sweep.status import refresh
from hydra_plugins.dcp_launcher._planned import PlannedJob


def open_or_resume(
    folder: Path, scheduler: str, jobs: Sequence[PlannedJob]
) -> tuple[Sweep, list[PlannedJob], list[str]]:
    """The record of the sweep with these jobs in it, those of them that are to be submitted (not those that are done,
    running or waiting), and why nothing may be submitted.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / record.FILE).exists():
        code = record_code(Path.cwd(), folder)
        records = [job.record for job in jobs]
        return Sweep(path=folder, scheduler=scheduler, command=sys.argv[1:], code=code, jobs=records), list(jobs), []
    sweep = record.read(folder)
    try:
        refresh(sweep)
    except SchedulerUnavailable as error:
        return sweep, [], [f"the scheduler does not answer, so it is unknown which jobs remain: {error}"]
    problems = [problem for job in jobs for problem in _conflicts(sweep, job)]
    return sweep, [job for job in jobs if _enter(sweep, job)], problems


def _conflicts(sweep: Sweep, job: PlannedJob) -> Iterator[str]:
    """Why this job may not take the place of the recorded one."""
    old, new = sweep.job(job.record.number), job.record
    if old is None or job.run is None:
        return
    if job.run.resume_sweep is None:
        yield f"job {old.number} already exists in {sweep.path}; resume_sweep={sweep.path} runs the jobs that remain"
    elif old.config != new.config and not job.run.resume_sweep_changed:
        before = " ".join(text for text in old.overrides if text not in new.overrides)
        now = " ".join(text for text in new.overrides if text not in old.overrides)
        yield (
            f"job {old.number} has changed since it was submitted (before: {before or 'other defaults'}; "
            f"now: {now or 'other defaults'}); resume_sweep_changed=true runs it as it is now"
        )


def _enter(sweep: Sweep, job: PlannedJob) -> bool:
    """Enter the job into the record; whether it is to be submitted."""
    old = sweep.job(job.record.number)
    if old is None:
        sweep.jobs.append(job.record)
        return True
    remains = not old.ids or old.state in (JobState.failed, JobState.cancelled)
    if job.run is not None:  # a program that is not ours starts afresh, as with every other launcher
        job.record = replace(job.record, ids=old.ids, attempts=old.attempts) if remains else old
    sweep.jobs[sweep.jobs.index(old)] = job.record
    return remains or job.run is None
