"""The programs: ours, and the doors for somebody else's Hydra app.

    @hydra.main(...)                                   @dcp_runner.hydra_main(...)
    def main(cfg): dcp_runner.run_experiment(cfg)      def main(cfg): anything(cfg)

`run_experiment` does everything: checks, run folder, ranks, exit code. `hydra_main` is `hydra.main` in which only rank
0 of a torchrun or srun start enters Hydra, and in which a bad command line is answered with one report.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from dcp_runner.commands.program import RUN, run_command
from dcp_runner.common import logs
from dcp_runner.common.errors import BAD_INPUT, UserError, show, showing_user_errors
from dcp_runner.common.launch_env import World, from_env
from dcp_runner.common.metrics_file import last_metrics
from dcp_runner.common.run_dir import RunDir
from dcp_runner.config.convert import config_hash
from dcp_runner.config.schema import RunConfig
from dcp_runner.launch.broadcast import RunFailed
from dcp_runner.launch.hydra_main import hydra_main as launch_hydra_main
from dcp_runner.launch.job import TRAIN, Job
from dcp_runner.launch.new_job import new_job
from dcp_runner.launch.preflight.checks import check, missing_gpus
from dcp_runner.launch.preflight.report import exit_with_problems
from dcp_runner.launch.preflight.resolve import output_dir, remove_empty_dir, resolve_config
from dcp_runner.launch.requeue import requeue_if_stopped
from dcp_runner.sweep.current_job import in_sweep, start_of
from dcp_runner.sweep.recorded_command import expand_resume_sweep

log = logging.getLogger(__name__)
__all__ = ["RunFailed", "check", "hydra_main", "main", "run_experiment"]
hydra_main = partial(launch_hydra_main, expand=expand_resume_sweep)


def run_experiment(cfg: DictConfig, *, entry: str = TRAIN, run_dir: Path | None = None) -> float | None:
    """Train what a composed configuration describes, on as many ranks as it asks for. Gives the last value of
    `optimized_metric` (rank 0, or the launcher of the ranks); None: the run has no such metric, or was a dry one.

    1. check everything; a bad configuration ends with one report and exit code 2
    2. with `dry_run`, show the plan and return
    3. make the next attempt folder of the run (one process)
    4. under torchrun or srun take part as one rank; else start the ranks, and wait for them

    `run_dir` is the run folder; None: Hydra's output folder. `entry` is the `module:function` that each rank calls
    with (RunConfig, RunContext).

    Raises:
        SystemExit: the run did not end well: 2 for a bad configuration, 1 for a failure, 128 + N for signal N.
        RunFailed: instead of exit code 1, in a sweep.
    """
    try:
        world = from_env(os.environ)
        logs.setup(world.rank if world else 0)
        code = _start(cfg, entry, run_dir) if world is None else _take_part(cfg, entry, run_dir, world)
    except UserError as error:
        code = show(error)
    if code == 1 and in_sweep():
        raise RunFailed("a job of the sweep has failed")
    if code:
        sys.exit(code)
    if cfg.get("dry_run") or (world is not None and world.rank > 0):
        return None  # what the job returns is rank 0's to say, and the others need not all read its file
    metrics = last_metrics(RunDir(_folder(cfg, run_dir)).metrics_file)
    value = metrics.get(str(cfg.get("optimized_metric", RunConfig.optimized_metric)))
    return None if value is None else float(value)


@showing_user_errors()
def main() -> None:
    """`python -m dcp_runner` and `dcp-runner`; both find modules of the current folder, as a model of one's own.

    Where the first word is a command (`status`, `wait`, ...), that is run; `run` stands for a training run.
    """
    if (code := run_command(sys.argv[1:])) is not None:
        sys.exit(code)
    if sys.argv[1:2] == [RUN]:
        del sys.argv[1]
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    _train()


@hydra_main(config_path="pkg://dcp_runner.conf", config_name="config", check=check)
def _train(cfg: DictConfig) -> float | None:
    return run_experiment(cfg)


def _folder(cfg: DictConfig, run_dir: Path | None) -> Path:
    return run_dir.absolute() if run_dir else output_dir(str(cfg.get("name", RunConfig.name)))


def _prepare(cfg: DictConfig, run_dir: Path | None, world: World | None) -> tuple[RunConfig, Path] | None:
    """The run that is to be made, and its folder (one process); None: it was a dry run."""
    found = check(cfg)
    config = RunConfig() if found else resolve_config(cfg, world)
    found += missing_gpus(config, world)
    if config.verify_resume and (world or in_sweep()):
        found.append("verify_resume: it starts its own ranks, twice; give it without torchrun, srun and -m")
    folder = _folder(cfg, run_dir)
    if found or config.dry_run:
        remove_empty_dir(folder)
    if found:
        exit_with_problems(found)
    if config.dry_run:
        from dcp_runner.launch.preflight.plan_checks import show_plan

        print(show_plan(config))
        return None
    return config, folder


def _start(cfg: DictConfig, entry: str, run_dir: Path | None) -> int:
    """Start the ranks here and wait for them, or try whether they resume as they should."""
    prepared = _prepare(cfg, run_dir, None)
    if prepared is None:
        return 0
    config, folder = prepared
    if not config.verify_resume:
        code = _run_here(config, entry, folder, start_of(cfg, config, folder, os.environ), alone=not in_sweep())
        return requeue_if_stopped(code, config.resources.requeues, os.environ)
    from dcp_runner.run.verify_resume import verify_resume

    code, told = verify_resume(config, folder, lambda config, folder: _run_here(config, entry, folder, {}, alone=False))
    print(*told, sep="\n")
    return code


def _run_here(config: RunConfig, entry: str, folder: Path, start: Mapping[str, Any], alone: bool) -> int:
    """Start the ranks here and wait for them; a single one runs in this process (`alone`), where a debugger can see it.

    The jobs of a sweep get a process of their own each, so that none inherits what another has left behind.
    """
    from dcp_runner.common.signals import StopFlag
    from dcp_runner.launch import first_failure, local, outcomes
    from dcp_runner.launch.rank import run_rank

    job = new_job(config, entry, folder, start)
    size, nodes = config.parallel.world_size, config.resources.nodes
    if nodes > 1:
        log.warning("resources.nodes=%d, but no scheduler has started this: all %d ranks run here", nodes, size)
    if size == 1 and alone:
        with StopFlag() as stop:
            rank = run_rank(job, None, stop)
        ended = outcomes.RunResult([outcomes.RankExit(0, rank.code)], failures=[rank.failure] if rank.failure else [])
    else:
        ended = local.launch(job, size, size // nodes)
    if ended.exit_code == 1:
        print(*first_failure.report(ended, Path(job.run_dir)), sep="\n", file=sys.stderr)
    return ended.exit_code


def _take_part(cfg: DictConfig, entry: str, run_dir: Path | None, world: World) -> int:
    """Be one of the ranks that somebody else has started. Rank 0 decides; the others are told, and compare."""
    from dcp_runner.common.signals import StopFlag
    from dcp_runner.launch import first_failure
    from dcp_runner.launch.rank import abandon_process_group, run_rank
    from dcp_runner.launch.rendezvous import channel

    meeting = channel(world)
    if world.rank == 0:
        code: int | None = BAD_INPUT
        job: Job | None = None
        try:
            prepared = _prepare(cfg, run_dir, world)
            job = new_job(prepared[0], entry, prepared[1], start_of(cfg, *prepared, os.environ)) if prepared else None
            code = 0 if job is None else None
        finally:
            meeting.send(code=code, job=asdict(job) if job else None)
    else:
        message = meeting.receive()
        if "exit" in message:
            return int(message["exit"])
        code = message["code"]
        if message["job"]:
            job = replace(Job(**message["job"]), config_hash=config_hash(resolve_config(cfg, world)))
    if code is None and job is not None:
        with StopFlag() as stop:
            ended = run_rank(job, world, stop)
        code = ended.code
        if ended.failure:
            print(first_failure.console_summary(ended.failure), file=sys.stderr)
        elif world.rank == 0 and not stop.exit_now:
            code = requeue_if_stopped(code, resolve_config(cfg, world).resources.requeues, os.environ)
        if in_sweep() or not ended.failure:
            abandon_process_group()
        meeting.finish_job(wait_for_rank_0=not (ended.failure or stop.exit_now))
    else:
        meeting.finish_job()
    return code or 0
