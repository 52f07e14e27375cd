"""One rank enters Hydra, the others follow: they are handed what rank 0 has composed, once for each job of a sweep, and
at last the exit code.
"""

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
    """A job of a sweep has failed; it has told why. The other jobs go on."""


class ConfigBroadcast(AbstractContextManager["ConfigBroadcast"]):
    """Rank 0's side, or that of the only process: it hands every configuration on, and at last its own end."""

    def __init__(self, task: TaskFunction, world: World | None) -> None:
        self._world = world if world is not None and world.size > 1 else None

        @wraps(task)
        def handing_on(cfg: DictConfig) -> Any:
            if self._world is not None:
                from dcp_runner.launch.rendezvous import stream

                hydra_config = HydraConfig.instance().cfg
                stream(self._world).send(
                    config=OmegaConf.to_yaml(cfg, resolve=True), hydra=OmegaConf.to_yaml(hydra_config)
                )
            return task(cfg)

        self.task = handing_on

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._world is not None:
            from dcp_runner.launch.rendezvous import stream

            stream(self._world).send(exit=exit_code(error))
            stream(self._world).part()


def follow(task: TaskFunction, world: World) -> NoReturn:
    """The other ranks' side."""
    from dcp_runner.launch.rendezvous import stream

    setup_globals()
    try:
        while "exit" not in (message := stream(world).receive()):
            with suppress(RunFailed):
                _call(task, message)
        sys.exit(message["exit"])
    finally:
        stream(world).part()


def follow_once(task: TaskFunction, world: World) -> NoReturn:
    """The other ranks' side of a single job. One that fails leaves at once: others may wait for it in vain."""
    from dcp_runner.launch.rendezvous import stream

    try:
        message = stream(world).receive()
        if "exit" not in message:
            _call(task, message)
        sys.exit(message.get("exit"))
    except RunFailed:
        sys.exit(1)  # it has told why
    finally:
        stream(world).part()


def _call(task: TaskFunction, message: Mapping[str, Any]) -> None:
    """As Hydra would, with the configuration that rank 0 has."""
    HydraConfig.instance().cfg = cast(Any, OmegaConf.create(message["hydra"]))
    task(cast(DictConfig, OmegaConf.create(message["config"])))
