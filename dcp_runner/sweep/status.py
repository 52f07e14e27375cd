"""Checking a sweep: the state of every job, now or until all have ended."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from dcp_runner.common.run_dir import RunDir
from dcp_runner.common.tables import table
from dcp_runner.launch.outcomes import FailureRecord, read_exit_records, read_failure_records
from dcp_runner.sweep import job_state
from dcp_runner.sweep.record import JobRecord, JobState, Sweep
from dcp_runner.sweep.scheduler import PENDING, RUNNING, Scheduler, SchedulerUnavailable, scheduler_of

log = logging.getLogger(__name__)
VISIBLE_S = 60.0
"""How long a network file system may take to show what another machine has written."""


def refresh(sweep: Sweep, scheduler: Scheduler | None = None) -> None:
    """Update the records of all jobs that have not ended, and write them.

    Raises:
        SchedulerUnavailable: the scheduler does not answer; the records are unchanged.
    """
    scheduler = scheduler or scheduler_of(sweep.scheduler, sweep.path)
    open_jobs = [job for job in sweep.jobs if job.ids and not job.state.ended]
    if not open_jobs:
        return
    states = scheduler.states([job.ids[-1] for job in open_jobs])
    for job in open_jobs:
        _update(sweep, job, states.get(job.ids[-1]))
    sweep.write_states()


def _update(sweep: Sweep, job: JobRecord, scheduler_state: str | None) -> None:
    starts = sweep.starts(job)
    of_last_id = [folder for folder in starts if folder.name.rpartition(".")[0] == job.ids[-1]]
    exits = read_exit_records(of_last_id[-1]) if of_last_id else {}
    job.attempts = len(starts)
    ranks = job.nodes * job.tasks_per_node
    if scheduler_state == "COMPLETED" and len(exits) < ranks:
        job.ended_at = job.ended_at or time.time()
        if time.time() < job.ended_at + VISIBLE_S:
            job.state = JobState.running
            job.reason = f"has ended; {ranks - len(exits)} of {ranks} exit records are not visible yet"
            return
    ended = scheduler_state not in PENDING | RUNNING  # else every check would read the files of thousands of jobs
    found, srun_death = (failures(sweep, job), _srun_death(sweep, job)) if ended else ([], None)
    job.state, job.reason = job_state.judge(scheduler_state, ranks, exits, found, srun_death)
    if job.state is JobState.failed and sweep.scheduler == "slurm" and not (of_last_id or [*sweep.outputs(job)]):
        job.reason += f"; its tasks wrote nothing to {sweep.path}: is it on a file system that all nodes share?"
    if job.state is JobState.running and not of_last_id:
        job.state = JobState.waiting


def _srun_death(sweep: Sweep, job: JobRecord) -> tuple[int, str] | None:
    errors = (file.read_text(errors="replace") for file in sweep.outputs(job) if file.suffix == ".err")
    return job_state.srun_signal_death("".join(errors))


def failures(sweep: Sweep, job: JobRecord) -> list[FailureRecord]:
    """The failures that the ranks of the last start have recorded."""
    starts, run = sweep.starts(job), RunDir(sweep.path / job.folder)
    recorded = [
        *read_failure_records(run.attempt(run.last_attempt()).outcomes),
        *(read_failure_records(starts[-1]) if starts else ()),
    ]
    return list({failure.rank: failure for failure in recorded}.values())  # a rank records its failure in one place


def first_failed(sweep: Sweep, job: JobRecord) -> int:
    """The rank that failed first, whose log is the most useful; 0: no rank failed."""
    starts, ranks = sweep.starts(job), job.nodes * job.tasks_per_node
    exits = read_exit_records(starts[-1]) if starts else {}
    failure = job_state.first_failed(ranks, exits, failures(sweep, job))
    return failure.rank if failure else 0


def wait(sweep: Sweep, poll_s: float, numbers: Collection[int], log_change: Callable[[str], None]) -> None:
    """Wait until these jobs have ended: a live table on a terminal, a line for each change elsewhere."""
    if sys.stdout.isatty():
        with Live(job_table(sweep), refresh_per_second=4, transient=True) as live:
            for _ in _checks(sweep, poll_s, numbers):
                live.update(Group(job_table(sweep), Text("\n".join([*reasons(sweep.jobs), summary(sweep)]))))
        return
    before: dict[int, tuple[JobState, int]] = {}
    for _ in _checks(sweep, poll_s, numbers):
        for job in (job for job in sweep.jobs if job.number in numbers):
            now = (job.state, job.attempts)
            if before.get(job.number, (JobState.waiting, 0)) != now:
                attempt = f" (attempt {job.attempts})" if job.attempts > 1 else ""
                log_change(f"job {job.number} {job.state}{attempt}{': ' if job.reason else ''}{job.reason}")
            before[job.number] = now


def _checks(sweep: Sweep, poll_s: float, numbers: Collection[int]) -> Iterator[None]:
    while True:
        try:
            refresh(sweep)
        except SchedulerUnavailable as error:
            log.warning("the scheduler does not answer; retrying: %s", error)
        yield
        if all(job.state.ended or not job.ids for job in sweep.jobs if job.number in numbers):
            return
        time.sleep(poll_s)


def job_table(sweep: Sweep, jobs: Sequence[JobRecord] | None = None) -> Table:
    """A row for each job (default: all). Overrides that all jobs of the sweep share are in the title."""
    columns = ("job", "state", "id", "nodes x tasks", "attempts", "overrides")
    rows = [
        (
            str(job.number),
            str(job.state),
            job.ids[-1] if job.ids else "",
            f"{job.nodes} x {job.tasks_per_node}",
            str(job.attempts),
            " ".join(sweep.own_overrides(job)),
        )
        for job in (sweep.jobs if jobs is None else jobs)
    ]
    title = f"{sweep.path}\n{' '.join(sweep.common)}".rstrip()
    return table(columns, rows, title=title, whole=("job", "state", "id", "nodes x tasks"), right=("job",))


def reasons(jobs: Sequence[JobRecord]) -> list[str]:
    """Why jobs are in their state: one line for each job that has a reason."""
    return [f"job {job.number} {job.state}: {job.reason}" for job in jobs if job.reason]


def summary(sweep: Sweep) -> str:
    """How many jobs are in which state."""
    counts = {state: sum(job.state is state for job in sweep.jobs) for state in JobState}
    total = f"{len(sweep.jobs)} job{'s' if len(sweep.jobs) != 1 else ''}"
    return f"{total}: " + ", ".join(f"{count} {state}" for state, count in counts.items() if count)


def most_useful_logs(sweep: Sweep, job: JobRecord) -> list[Path]:
    """The logs of a job's ranks, or else what its tasks have printed."""
    return RunDir(sweep.path / job.folder).log_files() or list(sweep.outputs(job))
