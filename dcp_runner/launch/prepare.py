"""From a composed configuration to a job that ranks can be given: typed, complete, checked, with its own folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from dcp_runner.checkpoint.sharing import AUTO
from dcp_runner.config import ConfigError, RunConfig, config_hash, literal, load, to_plain
from dcp_runner.launch.building import target_problems
from dcp_runner.launch.degrees import degrees, resolve_degrees, world_size
from dcp_runner.launch.folder import new_attempt, obstacle
from dcp_runner.launch.job import Job
from dcp_runner.launch.problems import problems
from dcp_runner.launch.world import World, from_env
from dcp_runner.train.config import Device


def check(cfg: DictConfig) -> list[str]:
    """Everything that is wrong with a composed training run, before anything is made or started."""
    try:
        world = from_env(os.environ)
        config = complete(cfg, world)
    except ConfigError as error:
        return list(error.problems)
    found = problems(config, exists=partial(_may_be_resumed, config))
    try:
        found += target_problems(config)
        return found or _sharing_problems(config)
    except ConfigError as error:
        return [*found, *error.problems]


def _may_be_resumed(config: RunConfig, path: str) -> bool:
    """Whether something stands there; or the run has checkpoints, which may have begun there before it was moved."""
    root = Path(config.checkpoint.root or output_dir(config.name) / "checkpoints")
    return os.path.exists(path) or any(root.glob("checkpoint-*"))


def _sharing_problems(config: RunConfig) -> list[str]:
    """Declared sharings that would lose something. Makes the plan, and so only where something is declared."""
    if all(text == AUTO for text in config.sharing.values()):
        return []
    from dcp_runner.plan_view import sharing_problems

    return sharing_problems(config)


def complete(cfg: DictConfig, world: World | None) -> RunConfig:
    """The typed configuration with its degrees resolved; `world` is what torchrun or srun has started.

    Raises:
        ConfigError: it cannot be typed, or the degrees fit no number of ranks.
    """
    config = load(cfg)
    started = world.size if world is not None else None
    gpus = _gpus(config) if started is None and -1 in degrees(config.parallel).values() else 0
    return replace(config, parallel=resolve_degrees(config.parallel, config.resources, started, gpus))


def new_job(config: RunConfig, entry: str, run_dir: Path, start: Mapping[str, Any]) -> Job:
    """Claim the next attempt of a run folder, and note there how it was configured (one process); `start` tells what
    this start belongs to.

    Raises:
        ConfigError: the run folder cannot be written.
    """
    plain = to_plain(config)
    try:
        attempt = new_attempt(run_dir, _hydra_files(plain))
    except OSError as error:
        where = Path(error.filename or run_dir)
        why = obstacle(where) or f"{where}: {error.strerror}"
        raise ConfigError(f"run folder: it cannot be written: {why}") from error
    digest = config_hash(config)
    return Job(entry=entry, config=plain, config_hash=digest, run_dir=str(run_dir), attempt=attempt, **start)


def output_dir(config_name: str) -> Path:
    """Hydra's output folder, or outside of Hydra the one that our own programs would have."""
    inside = HydraConfig.initialized()
    return Path(HydraConfig.get().runtime.output_dir if inside else f"outputs/{config_name}").absolute()


def discard_if_empty(folder: Path) -> None:
    """Take back the folder that Hydra makes before anybody has looked at the configuration, and the ones above it."""
    here = Path.cwd()
    with suppress(OSError):  # a folder that holds something stays
        folder.rmdir()
        for above in folder.parents:
            if here not in above.parents:
                break
            above.rmdir()


def missing_gpus(config: RunConfig, world: World | None) -> list[str]:
    """`trainer.device=cuda` without a GPU for each rank; not part of `check`, which may run on a login node."""
    if config.trainer.device is not Device.cuda or config.dry_run:
        return []
    import torch

    ranks = world.local_size if world else world_size(config.parallel) // config.resources.nodes
    found = torch.cuda.device_count()
    return [f"trainer.device=cuda: {ranks} ranks need as many GPUs here (found {found})"] if found < ranks else []


def _gpus(config: RunConfig) -> int:
    if config.trainer.device is Device.cpu:
        return 0
    import torch

    return torch.cuda.device_count() * config.resources.nodes


def _hydra_files(plain: Mapping[str, Any]) -> dict[str, str]:
    """The three files that Hydra users look for, each written once."""
    files = {"config.yaml": OmegaConf.to_yaml(OmegaConf.create(literal(plain)))}
    if HydraConfig.initialized():
        hydra = cast(dict[str, Any], OmegaConf.to_container(cast(DictConfig, HydraConfig.get()), resolve=False))
        told = {key: value for key, value in hydra.items() if key not in ("help", "hydra_help")}
        files["hydra.yaml"] = OmegaConf.to_yaml(OmegaConf.create({"hydra": told}))
        files["overrides.yaml"] = OmegaConf.to_yaml(HydraConfig.get().overrides.task)
    return files
