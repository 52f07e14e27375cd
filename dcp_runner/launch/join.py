"""Being one of the ranks that torchrun or srun has started. Rank 0 decides what is run; the others compare."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from omegaconf import DictConfig

from dcp_runner.common.errors import BAD_INPUT
from dcp_runner.common.launch_env import World
from dcp_runner.config.convert import config_hash
from dcp_runner.launch.job import Job
from dcp_runner.launch.new_job import new_job
from dcp_runner.launch.preflight.checks import ResolvedRun
from dcp_runner.launch.preflight.resolve import resolve_config
from dcp_runner.launch.requeue import requeue_if_stopped


def join_as_rank_0(
    world: World,
    resolve: Callable[[], ResolvedRun],
    entry: str,
    start_of: Callable[[ResolvedRun], Mapping[str, Any]],
    *,
    in_sweep: bool,
) -> tuple[ResolvedRun, int]:
    """Resolve the run, let the other ranks know of its job, and take part in it: the run and the exit code. There is
    nothing to take part in if it is a dry one. `start_of` says what this start of the run belongs to.
    """
    from dcp_runner.launch.rendezvous import channel

    code: int | None = BAD_INPUT
    job: Job | None = None
    try:
        run = resolve()
        job = None if run.config.dry_run else new_job(run, entry, start_of(run))
        code = 0 if job is None else None
    finally:
        channel(world).send(code=code, job=_without_config(job) if job else None)
    return run, _take_part(job, world, in_sweep) if job else _part(world, 0)


def join_as_other_rank(cfg: DictConfig, world: World, *, in_sweep: bool) -> int:
    """Take part in the job that rank 0 announces: the exit code.

    The configuration is what this rank has composed, or has been given by rank 0. It is typed here and not checked
    again; the ranks do not run together if its hash is not that of rank 0.
    """
    from dcp_runner.launch.rendezvous import channel

    message = channel(world).receive()
    if "exit" in message:
        return int(message["exit"])
    if message["job"] is None:
        return _part(world, message["code"])
    config = resolve_config(cfg, world)
    return _take_part(Job(config=config, config_hash=config_hash(config), **message["job"]), world, in_sweep)


def _without_config(job: Job) -> dict[str, Any]:
    return {key: value for key, value in asdict(job).items() if key not in ("config", "config_hash")}


def _part(world: World, code: int) -> int:
    from dcp_runner.launch.rendezvous import channel

    channel(world).finish_job()
    return code


def _take_part(job: Job, world: World, in_sweep: bool) -> int:
    from dcp_runner.common.signals import StopFlag
    from dcp_runner.launch import first_failure
    from dcp_runner.launch.rank import abandon_process_group, run_rank
    from dcp_runner.launch.rendezvous import channel

    with StopFlag() as stop:
        ended = run_rank(job, world, stop)
    code = ended.code
    if ended.failure:
        print(first_failure.console_summary(ended.failure), file=sys.stderr)
    elif world.rank == 0 and not stop.exit_now:
        code = requeue_if_stopped(code, job.config.resources.requeues, os.environ)
    if in_sweep or not ended.failure:
        abandon_process_group()
    channel(world).finish_job(wait_for_rank_0=not (ended.failure or stop.exit_now))
    return code
