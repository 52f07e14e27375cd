"""`dcp-runner status|wait|logs|cancel|results SWEEP_DIR`: a sweep from any shell, without anybody's model."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from dcp_runner.common.metrics_file import last_metrics
from dcp_runner.common.run_dir import RunDir
from dcp_runner.common.tables import table
from dcp_runner.sweep import record, status
from dcp_runner.sweep.record import JobRecord, JobState, Sweep
from dcp_runner.sweep.scheduler import SchedulerUnavailable, scheduler_of

FAILED, BAD_INPUT, NO_ANSWER = 1, 2, 3


def main(arguments: Sequence[str]) -> int:
    """Run one command; its exit code: 0, 1 where a job has failed or could not be cancelled, 2 for a mistake, 3 where
    the scheduler is silent.
    """
    given = _parser().parse_args(arguments)
    try:
        sweep = record.read(given.sweep.absolute())
        jobs = _chosen(sweep, given.jobs)
    except (OSError, LookupError) as error:
        print(f"dcp-runner {given.command}: {error}", file=sys.stderr)
        return BAD_INPUT
    try:
        return COMMANDS[given.command](sweep, jobs, given)
    except SchedulerUnavailable as error:
        print(f"dcp-runner {given.command}: the scheduler does not answer: {error}", file=sys.stderr)
        return NO_ANSWER
    except OSError as error:  # its folder is read-only, full or gone
        print(f"dcp-runner {given.command}: {error}", file=sys.stderr)
        return BAD_INPUT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dcp-runner", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, command in COMMANDS.items():
        one = commands.add_parser(name, help=command.__doc__, description=command.__doc__)
        one.add_argument("sweep", type=Path, metavar="SWEEP_DIR")
        one.add_argument("jobs", type=int, nargs="*", metavar="JOB", help="numbers of jobs; default: all")
        if name != "logs":
            one.add_argument("--json", action="store_true", help="one JSON document instead of a table")
        if name == "logs":
            one.add_argument("--rank", type=int, help="of one rank; default: rank 0, or the one that failed first")
        if name == "wait":
            one.add_argument("--poll", type=float, default=2.0, metavar="S", help="seconds between two looks")
    return parser


def _chosen(sweep: Sweep, numbers: Sequence[int]) -> list[JobRecord]:
    found = [job for job in sweep.jobs if not numbers or job.number in numbers]
    missing = sorted(set(numbers) - {job.number for job in found})
    if missing:
        known = f"0 to {len(sweep.jobs) - 1}" if sweep.jobs else "none"
        raise LookupError(f"no job {', '.join(map(str, missing))} in {sweep.path} (there are {known})")
    return found


def _status(sweep: Sweep, jobs: list[JobRecord], given: argparse.Namespace) -> int:
    """show the state of every job"""
    status.refresh(sweep)
    _show(sweep, jobs, given)
    return _code(jobs)


def _wait(sweep: Sweep, jobs: list[JobRecord], given: argparse.Namespace) -> int:
    """wait until the jobs have ended"""
    status.wait(sweep, given.poll, {job.number for job in jobs}, lambda text: print(text, file=sys.stderr, flush=True))
    _show(sweep, jobs, given)
    return _code(jobs)


def _cancel(sweep: Sweep, jobs: list[JobRecord], given: argparse.Namespace) -> int:
    """end jobs that wait or run; those that run are asked to save first"""
    status.refresh(sweep)
    ended = [job for job in jobs if job.ids and not job.state.ended]
    refused = scheduler_of(sweep.scheduler, sweep.path).cancel([job.ids[-1] for job in ended])
    if refused:
        print(f"dcp-runner cancel: not everything was cancelled: {refused}", file=sys.stderr)
        return FAILED
    told = [job.number for job in ended]
    print(json.dumps({"cancelled": told}) if given.json else f"cancelled: {', '.join(map(str, told)) or 'nothing'}")
    return 0


def _logs(sweep: Sweep, jobs: list[JobRecord], given: argparse.Namespace) -> int:
    """print the log of one rank of each job"""
    for job in jobs:
        rank = given.rank if given.rank is not None else status.first_failed(sweep, job)
        own = RunDir(sweep.path / job.folder).log_file(rank)
        for file in [own] if own.exists() else sweep.outputs(job):
            print(f"== job {job.number}: {file}")
            print(file.read_text(encoding="utf-8", errors="replace"), end="")
    return 0


def _results(sweep: Sweep, jobs: list[JobRecord], given: argparse.Namespace) -> int:
    """show the last metrics of every job"""
    status.refresh(sweep)
    found = [{"job": job.number, "state": job.state, **_last(sweep, job)} for job in jobs]
    if given.json:
        print(json.dumps([row | {"overrides": job.overrides} for row, job in zip(found, jobs, strict=True)], indent=1))
        return _code(jobs)
    columns = list(dict.fromkeys(key for row in found for key in row))
    rows = [
        [*(_text(row.get(column, "")) for column in columns), " ".join(sweep.own_overrides(job))]
        for row, job in zip(found, jobs, strict=True)
    ]
    Console().print(table([*columns, "overrides"], rows, whole=columns, right=columns))
    return _code(jobs)


COMMANDS: dict[str, Callable[[Sweep, list[JobRecord], argparse.Namespace], int]] = {
    "status": _status,
    "wait": _wait,
    "logs": _logs,
    "cancel": _cancel,
    "results": _results,
}


def _show(sweep: Sweep, jobs: list[JobRecord], given: argparse.Namespace) -> None:
    if given.json:
        shown = [
            {"job": j.number, "state": j.state, "told": j.told, "attempts": j.attempts, "ids": j.ids,
             "overrides": j.overrides, "folder": j.folder} for j in jobs
        ]  # fmt: skip
        print(json.dumps(shown, indent=1))
    else:
        Console().print(status.job_table(sweep, jobs))
        print(*status.reasons(jobs), status.summary(sweep), sep="\n")


def _code(jobs: Sequence[JobRecord]) -> int:
    return FAILED if any(job.state in (JobState.failed, JobState.cancelled) for job in jobs) else 0


def _last(sweep: Sweep, job: JobRecord) -> dict[str, Any]:
    return last_metrics(RunDir(sweep.path / job.folder).metrics_file)


def _text(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)
