"""The program `dcp-runner`, and the entry points for another Hydra app.

    @hydra.main(...)                                   @dcp_runner.hydra_main(...)
    def main(cfg): dcp_runner.run_experiment(cfg)      def main(cfg): anything(cfg)

`run_experiment` does everything: checks, run folder, ranks, exit code. `hydra_main` is `hydra.main` in which only rank
0 of a torchrun or srun start enters Hydra, and in which a bad command line is answered with one report.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from dcp_runner.commands.program import RUN, run_command
from dcp_runner.common import logs
from dcp_runner.common.errors import UserError, show, showing_user_errors
from dcp_runner.common.launch_env import World, from_env
from dcp_runner.common.metrics_file import last_metrics
from dcp_runner.common.run_dir import RunDir
from dcp_runner.launch.broadcast import RunFailed
from dcp_runner.launch.hydra_main import hydra_main as launch_hydra_main
from dcp_runner.launch.job import TRAIN
from dcp_runner.launch.join import join_as_other_rank, join_as_rank_0
from dcp_runner.launch.preflight.checks import ResolvedRun, check, resolve_here
from dcp_runner.launch.start_here import start_here
from dcp_runner.sweep.current_job import in_sweep, start_of
from dcp_runner.sweep.recorded_command import expand_resume_sweep

__all__ = ["RunFailed", "check", "hydra_main", "main", "run_experiment"]
hydra_main = partial(launch_hydra_main, expand=expand_resume_sweep)


def run_experiment(cfg: DictConfig, *, entry: str = TRAIN, run_dir: Path | None = None) -> float | None:
    """Train what a composed configuration describes, on as many ranks as it asks for. Gives the last value of
    `optimized_metric` (rank 0, or the launcher of the ranks); None: the run has no such metric, or was a dry one.

    1. resolve and check the configuration; a bad one ends with one report and exit code 2
    2. with `dry_run`, show the plan and return
    3. make the next attempt folder of the run (one process)
    4. under torchrun or srun take part as one rank; else start the ranks, and wait for them

    `run_dir` is the run folder; None: Hydra's output folder. `entry` is the `module:function` that each rank calls
    with (RunConfig, RunContext).

    Raises:
        SystemExit: the run did not end well: 2 for a bad configuration, 1 for a failure, 128 + N for signal N.
        RunFailed: instead of exit code 1, in a sweep.
    """
    resolved: ResolvedRun | None = None
    try:
        world = from_env(os.environ)
        logs.setup(world.rank if world else 0)
        if world is not None and world.rank > 0:
            code = join_as_other_rank(cfg, world, in_sweep=in_sweep())
        else:
            resolved, code = _lead(cfg, entry, run_dir, world)
    except UserError as error:
        code = show(error)
    if code == 1 and in_sweep():
        raise RunFailed("a job of the sweep has failed")
    if code:
        sys.exit(code)
    if resolved is None or resolved.config.dry_run:
        return None  # rank 0 returns the value, and the other ranks need not all read its file
    value = last_metrics(RunDir(resolved.run_dir).metrics_file).get(resolved.config.optimized_metric)
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


def _lead(cfg: DictConfig, entry: str, run_dir: Path | None, world: World | None) -> tuple[ResolvedRun, int]:
    """The only process, or rank 0 of those that torchrun or srun has started: the run, and the exit code."""

    def resolve() -> ResolvedRun:
        return resolve_here(cfg, world, run_dir, in_sweep=in_sweep())

    def start(run: ResolvedRun) -> dict[str, Any]:
        return start_of(cfg, run.config, run.run_dir, os.environ)

    if world is not None:
        return join_as_rank_0(world, resolve, entry, start, in_sweep=in_sweep())
    run = resolve()
    code = 0 if run.config.dry_run else start_here(run, entry, start(run), in_process=not in_sweep())
    return run, code
