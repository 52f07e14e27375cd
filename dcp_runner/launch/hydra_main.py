"""`hydra.main` for programs of many ranks, with one report for a bad command line.

Under torchrun or srun every rank runs the same command. Only rank 0 enters Hydra: ranks that compose for themselves
would get different time stamps, so different run folders, and race for the files in them. The others wait here for
the configuration that rank 0 composed.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import wraps

import hydra
from hydra.types import TaskFunction

from dcp_runner.common.errors import showing_user_errors
from dcp_runner.common.launch_env import from_env
from dcp_runner.launch.broadcast import ConfigBroadcast, follow
from dcp_runner.launch.preflight.report import Check, check_command_line


def hydra_main(
    *,
    config_path: str | None,
    config_name: str,
    version_base: str | None = "1.3",
    check: Check | None = None,
    expand: Callable[[Sequence[str]], list[str]] = list,
) -> Callable[[TaskFunction], Callable[[], None]]:
    """`hydra.main` for programs that may be started as many ranks.

    A command line that cannot be composed is answered with one report of everything that is wrong with it, and exit
    code 2, before any folder is made; `check` adds the problems of a configuration that could be composed. `expand`
    replaces the arguments before Hydra sees them. On the ranks that do not enter Hydra the decorated function is
    called with rank 0's configuration; HydraConfig has the same content as on rank 0.
    """

    def decorate(task: TaskFunction) -> Callable[[], None]:
        @wraps(task)
        @showing_user_errors()
        def main() -> None:
            try:
                world = from_env(os.environ)
                if world is not None and world.rank > 0:
                    follow(task, world)
                sys.argv[1:] = expand(sys.argv[1:])
                with ConfigBroadcast(task, world) as broadcast:
                    enter = hydra.main(config_path=config_path, config_name=config_name, version_base=version_base)
                    with check_command_line(task, config_path, config_name, check):
                        enter(broadcast.task)()
            except KeyboardInterrupt:
                sys.exit(128 + signal.SIGINT)

        return main

    return decorate
