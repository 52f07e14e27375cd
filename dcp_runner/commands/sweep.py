"""`dcp-runner status|wait|logs|results|cancel SWEEP_DIR`: a sweep from any shell, without importing a user's model."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dcp_runner.commands.command import NO_ANSWER, Command, CommandError
from dcp_runner.common.errors import FAILED
from dcp_runner.common.metrics_file import last_metrics
from dcp_runner.common.run_dir import RunDir
from dcp_runner.common.tables import as_text, table
from dcp_runner.sweep import record, status
from dcp_runner.sweep.record import JobRecord, JobState, Sweep
from dcp_runner.sweep.scheduler import SchedulerUnavailable, scheduler_of

Action = Callable[[Sweep, list[JobRecord], Namespace], int]


def _on_sweep(action: Action) -> Callable[[Namespace], int]:
    """A command's function, from one that is given the sweep and the selected jobs."""

    def run(given: Namespace) -> int:
        try:
            sweep = record.read(given.sweep.absolute())
        except OSError as error:
            raise CommandError(error) from error
        jobs = _selected(sweep, given.jobs)
        try:
            return action(sweep, jobs, given)
        except SchedulerUnavailable as error:
            raise CommandError(f"the scheduler does not answer: {error}", NO_ANSWER) from error
        except BrokenPipeError:
            raise
        except OSError as error:  # its folder is read-only, full or gone
            raise CommandError(error) from error

    return run


def _selected(sweep: Sweep, numbers: Sequence[int]) -> list[JobRecord]:
    found = [job for job in sweep.jobs if not numbers or job.number in numbers]
    missing = sorted(set(numbers) - {job.number for job in found})
    if missing:
        known = f"jobs: 0 to {len(sweep.jobs) - 1}" if sweep.jobs else "it has no jobs"
        raise CommandError(f"no job {', '.join(map(str, missing))} in {sweep.path} ({known})")
    return found


def _select(parser: ArgumentParser) -> None:
    parser.add_argument("sweep", type=Path, metavar="SWEEP_DIR", help="folder of the sweep")
    parser.add_argument("jobs", type=int, nargs="*", default=[], metavar="JOB", help="job numbers (default: all)")


def _select_with_json(parser: ArgumentParser) -> None:
    _select(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")


def _wait_arguments(parser: ArgumentParser) -> None:
    _select_with_json(parser)
    parser.add_argument("--poll", type=float, default=2.0, metavar="S", help="seconds between checks (default: 2)")


def _logs_arguments(parser: ArgumentParser) -> None:
    _select(parser)
    parser.add_argument("--rank", type=int, metavar="N", help="default: the rank that failed first, or rank 0")


def _status(sweep: Sweep, jobs: list[JobRecord], given: Namespace) -> int:
    status.refresh(sweep)
    _show(sweep, jobs, given)
    return _code(jobs)


def _wait(sweep: Sweep, jobs: list[JobRecord], given: Namespace) -> int:
    status.wait(sweep, given.poll, {job.number for job in jobs}, lambda text: print(text, file=sys.stderr, flush=True))
    _show(sweep, jobs, given)
    return _code(jobs)


def _cancel(sweep: Sweep, jobs: list[JobRecord], given: Namespace) -> int:
    status.refresh(sweep)
    running = [job for job in jobs if job.ids and not job.state.ended]
    refused = scheduler_of(sweep.scheduler, sweep.path).cancel([job.ids[-1] for job in running])
    if refused:
        raise CommandError(f"not all jobs were cancelled: {refused}", FAILED)
    numbers = [job.number for job in running]
    if given.json:
        print(json.dumps({"cancelled": numbers}))
    else:
        print(f"cancelled: job {', '.join(map(str, numbers))}" if numbers else "no job to cancel: all have ended")
    return 0


def _logs(sweep: Sweep, jobs: list[JobRecord], given: Namespace) -> int:
    for job in jobs:
        rank = given.rank if given.rank is not None else status.first_failed(sweep, job)
        own = RunDir(sweep.path / job.folder).log_file(rank)
        files = [own] if own.exists() else [*sweep.outputs(job)]
        for file in files:
            print(f"== job {job.number}: {file}")
            print(file.read_text(encoding="utf-8", errors="replace"), end="")
        if not files:
            print(f"job {job.number} ({job.state}) has no log", file=sys.stderr)
    return 0


def _results(sweep: Sweep, jobs: list[JobRecord], given: Namespace) -> int:
    status.refresh(sweep)
    metrics = [last_metrics(RunDir(sweep.path / job.folder).metrics_file) for job in jobs]
    found = [{"job": job.number, "state": job.state, **last} for job, last in zip(jobs, metrics, strict=True)]
    if given.json:
        print(json.dumps([row | {"overrides": job.overrides} for row, job in zip(found, jobs, strict=True)], indent=1))
        return _code(jobs)
    columns = list(dict.fromkeys(key for row in found for key in row))
    rows = [
        [*(_text(row.get(column, "")) for column in columns), " ".join(sweep.own_overrides(job))]
        for row, job in zip(found, jobs, strict=True)
    ]
    print(as_text(table([*columns, "overrides"], rows, whole=columns, right=columns)))
    return _code(jobs)


COMMANDS = (
    Command("status", "show the state of each job of a sweep", _select_with_json, _on_sweep(_status)),
    Command("wait", "wait until the jobs of a sweep have ended", _wait_arguments, _on_sweep(_wait)),
    Command("logs", "print the log of one rank of each job of a sweep", _logs_arguments, _on_sweep(_logs)),
    Command("results", "show the last metrics of each job of a sweep", _select_with_json, _on_sweep(_results)),
    Command(
        "cancel",
        "cancel jobs of a sweep; those that run are asked to save first",
        _select_with_json,
        _on_sweep(_cancel),
    ),
)


def _show(sweep: Sweep, jobs: list[JobRecord], given: Namespace) -> None:
    if given.json:
        shown = [
            {"job": j.number, "state": j.state, "reason": j.reason, "attempts": j.attempts, "ids": j.ids,
             "overrides": j.overrides, "folder": j.folder} for j in jobs
        ]  # fmt: skip
        print(json.dumps(shown, indent=1))
    else:
        print(as_text(status.job_table(sweep, jobs)))
        print(*status.reasons(jobs), status.summary(sweep), sep="\n")


def _code(jobs: Sequence[JobRecord]) -> int:
    return FAILED if any(job.state in (JobState.failed, JobState.cancelled) for job in jobs) else 0


def _text(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)
