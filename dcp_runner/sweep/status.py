"""Looking at a sweep: the state of every job, now or until all have ended."""

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
from dcp_runner.sweep.job_state import first, judge, srun_signal_death
from dcp_runner.sweep.record import JobRecord, JobState, Sweep
from dcp_runner.sweep.scheduler import PENDING, RUNNING, Scheduler, SchedulerUnavailable, scheduler_of

log = logging.getLogger(__name__)
NOTES_S = 60.0
"""So long may a file system hide what another machine has written."""


def refresh(sweep: Sweep, scheduler: Scheduler | None = None) -> None:
    """Bring the records of all jobs that have not ended up to date, and write them down.

    Raises:
        SchedulerUnavailable: the scheduler does not answer; the records are as they were.
    """
    scheduler = scheduler or scheduler_of(sweep.scheduler, sweep.path)
    open_jobs = [job for job in sweep.jobs if job.ids and not job.state.ended]
    if not open_jobs:
        return
    words = scheduler.words([job.ids[-1] for job in open_jobs])
    for job in open_jobs:
        _judge(sweep, job, words.get(job.ids[-1]))
    sweep.write_states()


def _judge(sweep: Sweep, job: JobRecord, word: str | None) -> None:
    starts = sweep.starts(job)
    mine = [folder for folder in starts if folder.name.rpartition(".")[0] == job.ids[-1]]
    left = read_exit_records(mine[-1]) if mine else {}
    job.attempts = len(starts)
    ranks = job.nodes * job.tasks_per_node
    if word == "COMPLETED" and len(left) < ranks:
        job.ended_at = job.ended_at or time.time()
        if time.time() < job.ended_at + NOTES_S:
            job.state = JobState.running
            job.told = f"has ended; the notes of {ranks - len(left)} ranks are not here yet"
            return
    ended = word not in PENDING | RUNNING  # else nobody reads the files of thousands of jobs at every look
    outcomes, seen = (failures(sweep, job), _seen(sweep, job)) if ended else ([], None)
    job.state, job.told = judge(word, ranks, left, outcomes, seen)
    if job.state is JobState.failed and sweep.scheduler == "slurm" and not mine and not [*sweep.outputs(job)]:
        job.told += f"; its tasks have written nothing to {sweep.path}: is it a folder that all nodes see?"
    if job.state is JobState.running and not mine:
        job.state = JobState.waiting


def _seen(sweep: Sweep, job: JobRecord) -> tuple[int, str] | None:
    errors = (file.read_text(errors="replace") for file in sweep.outputs(job) if file.suffix == ".err")
    return srun_signal_death("".join(errors))


def failures(sweep: Sweep, job: JobRecord) -> list[FailureRecord]:
    """What the ranks of the last start have written down about their failures."""
    starts, run = sweep.starts(job), RunDir(sweep.path / job.folder)
    noted = [
        *read_failure_records(run.attempt(run.last_attempt()).outcomes),
        *(read_failure_records(starts[-1]) if starts else ()),
    ]
    return list({outcome.rank: outcome for outcome in noted}.values())  # a rank notes its failure at one place


def first_failed(sweep: Sweep, job: JobRecord) -> int:
    """The rank whose log tells most."""
    starts = sweep.starts(job)
    failure = first(
        job.nodes * job.tasks_per_node, read_exit_records(starts[-1]) if starts else {}, failures(sweep, job)
    )
    return failure.rank if failure else 0


def wait(sweep: Sweep, poll_s: float, numbers: Collection[int], told: Callable[[str], None]) -> None:
    """Until these jobs have ended: a live table on a terminal, a line for each change elsewhere."""
    if sys.stdout.isatty():
        with Live(job_table(sweep), refresh_per_second=4) as live:
            for _ in _looks(sweep, poll_s, numbers):
                live.update(Group(job_table(sweep), Text("\n".join([*reasons(sweep.jobs), summary(sweep)]))))
        return
    before: dict[int, tuple[JobState, int]] = {}
    for _ in _looks(sweep, poll_s, numbers):
        for job in (job for job in sweep.jobs if job.number in numbers):
            now = (job.state, job.attempts)
            if before.get(job.number, (JobState.waiting, 0)) != now:
                again = f" (start {job.attempts})" if job.attempts > 1 else ""
                told(f"job {job.number} {job.state}{again}{': ' if job.told else ''}{job.told}")
            before[job.number] = now


def _looks(sweep: Sweep, poll_s: float, numbers: Collection[int]) -> Iterator[None]:
    while True:
        try:
            refresh(sweep)
        except SchedulerUnavailable as error:
            log.warning("the scheduler does not answer, and is asked again: %s", error)
        yield
        if all(job.state.ended or not job.ids for job in sweep.jobs if job.number in numbers):
            return
        time.sleep(poll_s)


def job_table(sweep: Sweep, jobs: Sequence[JobRecord] | None = None) -> Table:
    """All jobs (or these), a row each. Overrides that all jobs of the sweep have are in the title."""
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
    """Why jobs are in their state, a line for each that has something to tell."""
    return [f"job {job.number} {job.state}: {job.told}" for job in jobs if job.told]


def summary(sweep: Sweep) -> str:
    """How many jobs are in which state."""
    counts = {state: sum(job.state is state for job in sweep.jobs) for state in JobState}
    return f"{len(sweep.jobs)} jobs: " + ", ".join(f"{count} {state}" for state, count in counts.items() if count)


def most_useful_logs(sweep: Sweep, job: JobRecord) -> list[Path]:
    """The log files that tell most about a job: those of its ranks, or else what its tasks have printed."""
    return RunDir(sweep.path / job.folder).log_files() or list(sweep.outputs(job))
