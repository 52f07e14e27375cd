"""Rank 0 composes the configuration with Hydra and broadcasts it: once for each job of a sweep, then its exit code."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from functools import wraps
from types import TracebackType
from typing import Any, NoReturn, cast

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import setup_globals
from hydra.errors import CompactHydraException
from hydra.types import TaskFunction
from omegaconf import DictConfig, OmegaConf

from dcp_runner.common.launch_env import World
from dcp_runner.launch.outcomes import exit_code


class RunFailed(CompactHydraException):
    """A job of a sweep failed, and its failure has been reported. The other jobs continue."""


class ConfigBroadcast(AbstractContextManager["ConfigBroadcast"]):
    """The side of rank 0, or of the only process: sends every configuration, and at last the exit code."""

    def __init__(self, task: TaskFunction, world: World | None) -> None:
        self._world = world if world is not None and world.size > 1 else None

        @wraps(task)
        def sending(cfg: DictConfig) -> Any:
            if self._world is not None:
                from dcp_runner.launch.rendezvous import channel

                hydra_config = HydraConfig.instance().cfg
                channel(self._world).send(
                    config=OmegaConf.to_yaml(cfg, resolve=True), hydra=OmegaConf.to_yaml(hydra_config)
                )
            return task(cfg)

        self.task = sending

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._world is not None:
            from dcp_runner.launch.rendezvous import channel

            channel(self._world).send(exit=exit_code(error))
            channel(self._world).finish_job()


def follow(task: TaskFunction, world: World) -> NoReturn:
    """The side of the other ranks, for all jobs of a sweep."""
    from dcp_runner.launch.rendezvous import channel

    setup_globals()
    try:
        while "exit" not in (message := channel(world).receive()):
            with suppress(RunFailed):
                _call(task, message)
        sys.exit(message["exit"])
    finally:
        channel(world).finish_job()


def follow_once(task: TaskFunction, world: World) -> NoReturn:
    """The side of the other ranks, for a single job. A rank that fails exits at once, so that no other waits for it."""
    from dcp_runner.launch.rendezvous import channel

    try:
        message = channel(world).receive()
        if "exit" not in message:
            _call(task, message)
        sys.exit(message.get("exit"))
    except RunFailed:
        sys.exit(1)  # already reported
    finally:
        channel(world).finish_job()


def _call(task: TaskFunction, message: Mapping[str, Any]) -> None:
    """As Hydra would, with the configuration of rank 0."""
    HydraConfig.instance().cfg = cast(Any, OmegaConf.create(message["hydra"]))
    task(cast(DictConfig, OmegaConf.create(message["config"])))
