"""The door into Hydra: `hydra.main`, with one report for a bad command line, and for one rank of many only.

Under torchrun or srun every rank runs the same command. Only rank 0 enters Hydra, because two ranks that compose for
themselves get two time stamps, so two run folders, and race for the files in them. The others wait here and are given
what rank 0 composed.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import wraps

import hydra
from hydra.types import TaskFunction

from dcp_runner.common.errors import ConfigError
from dcp_runner.common.launch_env import World, from_env
from dcp_runner.launch.broadcast import ConfigBroadcast, follow
from dcp_runner.launch.preflight.report import Check, check_command_line, exit_with_problems


def hydra_main(
    *,
    config_path: str | None,
    config_name: str,
    version_base: str | None = "1.3",
    check: Check | None = None,
    meant: Callable[[Sequence[str]], list[str]] = list,
) -> Callable[[TaskFunction], Callable[[], None]]:
    """`hydra.main` for programs that may be started as many ranks.

    A command line that cannot be composed is answered with one report of everything that is wrong with it, and exit
    code 2, before any folder is made; `check` adds the problems of a configuration that could be composed. `meant` is
    the command line for the one that was given. On the ranks that do not enter Hydra the decorated function is called
    with rank 0's configuration; HydraConfig holds what it holds on rank 0.
    """

    def decorate(task: TaskFunction) -> Callable[[], None]:
        @wraps(task)
        def main() -> None:
            world = _world()
            try:
                if world is not None and world.rank > 0:
                    follow(task, world)
                sys.argv[1:] = meant(sys.argv[1:])
                with ConfigBroadcast(task, world) as leading:
                    enter = hydra.main(config_path=config_path, config_name=config_name, version_base=version_base)
                    with check_command_line(task, config_path, config_name, check):
                        enter(leading.task)()
            except KeyboardInterrupt:
                sys.exit(128 + signal.SIGINT)

        return main

    return decorate


def _world() -> World | None:
    try:
        return from_env(os.environ)
    except ConfigError as error:
        exit_with_problems(error.problems)
