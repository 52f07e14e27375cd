"""Which jobs of a sweep are left to do: all of a new one; of a resumed one those that have failed or never ran."""

from __future__ import annotations

import sys
from collections.abc import Sequence
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
    """The record of the sweep with these jobs in it, the jobs that are to be submitted, which are not those that are
    done or under way, and why nothing may be.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / record.FILE).exists():
        code = record_code(Path.cwd(), folder)
        fresh = [job.record for job in jobs]
        return Sweep(path=folder, scheduler=scheduler, command=sys.argv[1:], code=code, jobs=fresh), list(jobs), []
    sweep = record.read(folder)
    try:
        refresh(sweep)
    except SchedulerUnavailable as error:
        return sweep, [], [f"the scheduler does not answer, so nobody knows which jobs are left: {error}"]
    left: list[PlannedJob] = []
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
    return sweep, left, problems
