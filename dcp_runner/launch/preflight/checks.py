"""From a composed configuration to a job that ranks can be given: typed, complete, checked, with its own folder."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from omegaconf import DictConfig

from dcp_runner.checkpoint.sharing import AUTO
from dcp_runner.common.device import Device
from dcp_runner.common.errors import ConfigError
from dcp_runner.common.launch_env import World, from_env
from dcp_runner.common.run_dir import RunDir
from dcp_runner.config.schema import RunConfig
from dcp_runner.launch.preflight.build_checks import check_targets
from dcp_runner.launch.preflight.config_checks import check_config
from dcp_runner.launch.preflight.resolve import output_dir, resolve_config


def check(cfg: DictConfig) -> list[str]:
    """Everything that is wrong with a composed training run, before anything is made or started."""
    try:
        world = from_env(os.environ)
        config = resolve_config(cfg, world)
    except ConfigError as error:
        return list(error.problems)
    found = check_config(config, exists=partial(_may_be_resumed, config))
    try:
        found += check_targets(config)
        return found or _sharing_problems(config)
    except ConfigError as error:
        return [*found, *error.problems]


def _may_be_resumed(config: RunConfig, path: str) -> bool:
    """Whether something stands there; or the run has checkpoints, which may have begun there before it was moved."""
    root = Path(config.checkpoint.root or RunDir(output_dir(config.name)).checkpoints)
    return os.path.exists(path) or any(root.glob("checkpoint-*"))


def _sharing_problems(config: RunConfig) -> list[str]:
    """Declared sharings that would lose something. Makes the plan, and so only where something is declared."""
    if all(text == AUTO for text in config.sharing.values()):
        return []
    from dcp_runner.launch.preflight.plan_checks import sharing_problems

    return sharing_problems(config)


def missing_gpus(config: RunConfig, world: World | None) -> list[str]:
    """`trainer.device=cuda` without a GPU for each rank; not part of `check`, which may run on a login node."""
    if config.trainer.device is not Device.cuda or config.dry_run:
        return []
    import torch

    ranks = world.local_size if world else config.parallel.world_size // config.resources.nodes
    found = torch.cuda.device_count()
    return [f"trainer.device=cuda: {ranks} ranks need as many GPUs here (found {found})"] if found < ranks else []
