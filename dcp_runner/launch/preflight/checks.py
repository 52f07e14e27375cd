"""From a composed configuration to one resolved run: typed, its degrees filled in, checked, with its folder."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path

from omegaconf import DictConfig

from dcp_runner.common.device import Device
from dcp_runner.common.errors import ConfigError
from dcp_runner.common.launch_env import World, from_env
from dcp_runner.common.run_dir import RunDir
from dcp_runner.config.convert import config_hash, from_plain, plain_values
from dcp_runner.config.schema import RunConfig
from dcp_runner.launch.preflight.build_checks import check_targets
from dcp_runner.launch.preflight.config_checks import check_config
from dcp_runner.launch.preflight.resolve import hydra_output_dir, remove_empty_dir, with_all_degrees
from dcp_runner.launch.preflight.trial_build import trial_build

REMEMBERED = 1024
"""Resolved runs that are kept: the first jobs of a sweep are checked before it begins, and then run one by one."""


@dataclass(frozen=True)
class ResolvedRun:
    """A run that can be started. Made once, before any rank; handed on from then on."""

    config: RunConfig
    """Typed and checked, its degrees filled in."""
    run_dir: Path
    """Absolute."""
    plan: str | None = None
    """The table of the plan; None: the run is not a dry one."""

    @cached_property
    def config_hash(self) -> str:
        """Of everything that shapes the training."""
        return config_hash(self.config)


def resolve_run(cfg: DictConfig, world: World | None, run_dir: Path | None = None) -> ResolvedRun:
    """Type and check a composed configuration. The same configuration in the same place is resolved once: what was
    checked before Hydra made its folder is handed out again when the program asks for it.

    `world` is what torchrun or srun has started; `run_dir` the run folder, None: Hydra's output folder.

    Raises:
        ConfigError: everything that is wrong with it.
    """
    folder = run_dir.absolute() if run_dir else hydra_output_dir()
    return _resolve(json.dumps(plain_values(cfg)), world.size if world else None, folder, os.getcwd())


@lru_cache(maxsize=REMEMBERED)
def _resolve(values: str, started: int | None, run_dir: Path | None, cwd: str) -> ResolvedRun:
    """`cwd` is where relative paths begin."""
    config = with_all_degrees(from_plain(json.loads(values)), started)
    folder = run_dir or Path(f"outputs/{config.name}").absolute()
    problems = check_config(config, exists=partial(_may_be_resumed, config, folder))
    targets = check_targets(config)
    if targets:
        raise ConfigError(*problems, *targets)
    try:
        build = trial_build(config)
    except ConfigError as error:
        raise ConfigError(*problems, *error.problems) from error
    if problems or build.problems:
        raise ConfigError(*problems, *build.problems)
    return ResolvedRun(config, folder, build.plan)


def check(cfg: DictConfig) -> list[str]:
    """Everything that is wrong with a composed training run, before anything is made or started."""
    try:
        resolve_run(cfg, from_env(os.environ))
    except ConfigError as error:
        return list(error.problems)
    return []


def resolve_here(cfg: DictConfig, world: World | None, run_dir: Path | None, *, in_sweep: bool) -> ResolvedRun:
    """The run that is started here now; a dry one is shown. A refused or dry one leaves no empty folder behind.

    Raises:
        ConfigError: everything that is wrong with it, or with starting it here.
    """
    made_by_hydra = run_dir or hydra_output_dir()
    try:
        run = resolve_run(cfg, world, run_dir)
        if problems := [*missing_gpus(run.config, world), *_own_ranks_problems(run.config, world, in_sweep)]:
            raise ConfigError(*problems)
    except ConfigError:
        if made_by_hydra is not None:
            remove_empty_dir(made_by_hydra)
        raise
    if run.config.dry_run:
        remove_empty_dir(run.run_dir)
        print(run.plan)
    return run


def _own_ranks_problems(config: RunConfig, world: World | None, in_sweep: bool) -> list[str]:
    if config.verify_resume and (world or in_sweep):
        return ["verify_resume: it starts its own ranks, twice; give it without torchrun, srun and -m"]
    return []


def _may_be_resumed(config: RunConfig, run_dir: Path, path: str) -> bool:
    """Whether the path exists; or the run has checkpoints, which may have come from there before it was moved."""
    root = Path(config.checkpoint.root or RunDir(run_dir).checkpoints)
    return os.path.exists(path) or any(root.glob("checkpoint-*"))


def missing_gpus(config: RunConfig, world: World | None) -> list[str]:
    """`trainer.device=cuda` without a GPU for each rank; not part of `check`, which may run on a login node."""
    if config.trainer.device is not Device.cuda or config.dry_run:
        return []
    import torch

    ranks = world.local_size if world else config.parallel.world_size // config.resources.nodes
    found = torch.cuda.device_count()
    if found >= ranks:
        return []
    text = "1 rank" if ranks == 1 else f"{ranks} ranks"
    return [f"trainer.device=cuda: this node runs {text} and needs 1 GPU per rank (found {found})"]
