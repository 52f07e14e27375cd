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
from pathlib import Path

import hydra
from hydra.types import TaskFunction

from dcp_runner.config import ConfigError
from dcp_runner.launch.leading import Leading, follow
from dcp_runner.launch.refusing import Check, refuse, refuse_bad_input
from dcp_runner.launch.world import World, from_env
from dcp_runner.sweep.record import read

RESUME = "resume_sweep"


def hydra_main(
    *, config_path: str | None, config_name: str, version_base: str | None = "1.3", check: Check | None = None
) -> Callable[[TaskFunction], Callable[[], None]]:
    """`hydra.main` for programs that may be started as many ranks.

    A command line that cannot be composed is answered with one report of everything that is wrong with it, and exit
    code 2, before any folder is made; `check` adds the problems of a configuration that could be composed. On the
    ranks that do not enter Hydra the decorated function is called with rank 0's configuration; HydraConfig holds what
    it holds on rank 0.
    """

    def decorate(task: TaskFunction) -> Callable[[], None]:
        @wraps(task)
        def main() -> None:
            world = _world()
            try:
                if world is not None and world.rank > 0:
                    follow(task, world)
                sys.argv[1:] = _with_the_recorded(sys.argv[1:])
                with Leading(task, world) as leading:
                    enter = hydra.main(config_path=config_path, config_name=config_name, version_base=version_base)
                    refuse_bad_input(task, config_path, config_name, check)
                    enter(leading.task)()
            except KeyboardInterrupt:
                sys.exit(128 + signal.SIGINT)

        return main

    return decorate


def _world() -> World | None:
    try:
        return from_env(os.environ)
    except ConfigError as error:
        refuse(error.problems)


def _with_the_recorded(arguments: Sequence[str]) -> list[str]:
    """`resume_sweep=DIR` means the command that made the sweep; what is given now wins over what was given then."""
    given = {text.partition("=")[0]: text.partition("=")[2] for text in arguments if "=" in text}
    folder = given.get(RESUME)
    if not folder:
        return list(arguments)
    try:
        recorded = read(Path(folder)).command
    except FileNotFoundError as error:
        refuse([f"{RESUME}={error}"])
    given["hydra.sweep.dir"] = folder
    old = [text for text in recorded if text.partition("=")[0] not in given and text not in arguments]
    return sorted([*old, *arguments, f"hydra.sweep.dir={folder}"], key=_is_override)  # Hydra wants its flags together


def _is_override(text: str) -> bool:
    return text.startswith("~") or ("=" in text and not text.startswith("-"))
