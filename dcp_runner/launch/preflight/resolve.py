"""How many ranks, and how they are laid out over the mesh axes. Plain integers, before any process exists."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from dcp_runner.common.device import Device
from dcp_runner.common.errors import ConfigError
from dcp_runner.common.launch_env import World
from dcp_runner.config.convert import load
from dcp_runner.config.schema import ResourcesConfig, RunConfig
from dcp_runner.train.parallel.config import ParallelConfig

DEFAULT_DEGREE = 2
"""Degree of an axis given as -1, where the number of ranks is unknown."""


def resolve_degrees(
    parallel: ParallelConfig, resources: ResourcesConfig, started: int | None = None, gpus: int = 0
) -> ParallelConfig:
    """Replace the one degree that is -1 by the remaining ranks, and check that the product fits.

    The number of ranks comes from the first of these that is given: `started` (the ranks that torchrun or srun
    has started), `resources.nodes` x `resources.tasks_per_node`, `resources.nodes` x `resources.gpus_per_node`,
    `gpus` of all nodes together. Where none is, the degree is 2.

    Raises:
        ConfigError: no degrees fit; every contradiction is named.
    """
    asked = parallel.degrees
    below = [
        f"parallel.{axis}: must be at least 1, or -1 for the remaining ranks (found {degree})"
        for axis, degree in asked.items()
        if degree < 1 and degree != -1
    ]
    open_axes = [axis for axis, degree in asked.items() if degree == -1]
    if len(open_axes) > 1:
        below.append(f"{' and '.join('parallel.' + axis for axis in open_axes)}: only one degree may be -1")
    if below:
        raise ConfigError(*below)
    given = prod(degree for degree in asked.values() if degree != -1)
    text = " x ".join(f"{axis} {degree}" for axis, degree in asked.items() if degree != 1) or "a single rank"
    asked_for = resources.nodes * (resources.gpus_per_node or 0)
    total, source = _ranks(resources, started, *((asked_for, gpus) if open_axes else (0, 0)))
    if total is None:
        return _with(parallel, dict.fromkeys(open_axes, DEFAULT_DEGREE))
    if open_axes and total >= given and total % given == 0:
        return _with(parallel, {open_axes[0]: total // given})
    if not open_axes and total == given:
        return parallel
    remedy = "change the degrees (at most one may be -1) or the number of ranks"
    raise ConfigError(f"parallel: {text} does not fit {total} ranks ({source}); {remedy}")


def _with(parallel: ParallelConfig, found: dict[str, Any]) -> ParallelConfig:
    return replace(parallel, **found)


def _ranks(resources: ResourcesConfig, started: int | None, asked_for: int, gpus: int) -> tuple[int | None, str]:
    if started is not None:
        return started, "as started by torchrun or srun"
    if resources.tasks_per_node is not None:
        return resources.nodes * resources.tasks_per_node, "resources.nodes x resources.tasks_per_node"
    if asked_for:
        return asked_for, "resources.nodes x resources.gpus_per_node"
    return (gpus, "1 per GPU") if gpus else (None, "")


def resolve_config(cfg: DictConfig, world: World | None) -> RunConfig:
    """The typed configuration with its degrees resolved; `world` is what torchrun or srun has started.

    Raises:
        ConfigError: it cannot be typed, or the degrees fit no number of ranks.
    """
    return with_all_degrees(load(cfg), world.size if world is not None else None)


def with_all_degrees(config: RunConfig, started: int | None) -> RunConfig:
    """With the degree that is -1 replaced; `started` ranks are there already (None: not known).

    Raises:
        ConfigError: the degrees fit no number of ranks.
    """
    gpus = _gpus(config) if started is None and -1 in config.parallel.degrees.values() else 0
    return replace(config, parallel=resolve_degrees(config.parallel, config.resources, started, gpus))


def _gpus(config: RunConfig) -> int:
    if config.trainer.device is Device.cpu:
        return 0
    import torch

    return torch.cuda.device_count() * config.resources.nodes


def hydra_output_dir() -> Path | None:
    """Hydra's output folder; None: Hydra has not started this."""
    return Path(HydraConfig.get().runtime.output_dir).absolute() if HydraConfig.initialized() else None


def remove_empty_dir(folder: Path) -> None:
    """Remove the folder that Hydra makes before the configuration is checked, and empty ones above it."""
    current = Path.cwd()
    with suppress(OSError):  # a folder that holds something stays
        folder.rmdir()
        for above in folder.parents:
            if current not in above.parents:
                break
            above.rmdir()
