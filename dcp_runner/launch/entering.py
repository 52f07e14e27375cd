"""The door into Hydra: `hydra.main`, with one report for a bad command line, and for one rank of many only.

Under torchrun or srun every rank runs the same command. Only rank 0 enters Hydra, because two ranks that compose for
themselves get two time stamps, so two run folders, and race for the files in them. The others wait here and are given
what rank 0 composed: once for each job of a sweep, and at last the exit code.
"""

from __future__ import annotations

import os
import signal
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import wraps
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, cast

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl  # the only way to compose before a folder is made
from hydra._internal.utils import (
    create_automatic_config_search_path,
    detect_calling_file_or_module_from_task_function,
    get_args_parser,
)
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobRuntime, setup_globals
from hydra.errors import CompactHydraException
from hydra.types import RunMode, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from dcp_runner.config import ConfigError
from dcp_runner.launch.outcomes import exit_code
from dcp_runner.launch.overrides import Examined, examine, flag_problems
from dcp_runner.launch.world import World, from_env
from dcp_runner.sweep.record import read

RESUME = "resume_sweep"
BAD_INPUT = 2
"""Exit code of a command that was refused."""
Check = Callable[[DictConfig], Sequence[str]]
"""What is wrong with a composed configuration."""


class RunFailed(CompactHydraException):
    """A job of a sweep has failed; it has told why. The other jobs go on."""


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
                    _follow(task, world)
                sys.argv[1:] = _with_the_recorded(sys.argv[1:])
                with Leading(task, world) as leading:
                    enter = hydra.main(config_path=config_path, config_name=config_name, version_base=version_base)
                    _refuse_bad_input(task, config_path, config_name, check)
                    enter(leading.task)()
            except KeyboardInterrupt:
                sys.exit(128 + signal.SIGINT)

        return main

    return decorate


def refuse(problems: Sequence[str]) -> NoReturn:
    """Print the report and leave; all problems at once, nothing has been started."""
    count = f"{len(problems)} problems" if len(problems) > 1 else "1 problem"
    print(f"{count}, nothing was started:", *(f"  * {text}" for text in problems), sep="\n", file=sys.stderr)
    raise SystemExit(BAD_INPUT)


def _world() -> World | None:
    try:
        return from_env(os.environ)
    except ConfigError as error:
        refuse(error.problems)


class Leading(AbstractContextManager["Leading"]):
    """Rank 0's side, or that of the only process: it hands every configuration on, and at last its own end."""

    def __init__(self, task: TaskFunction, world: World | None) -> None:
        self._world = world if world is not None and world.size > 1 else None

        @wraps(task)
        def handing_on(cfg: DictConfig) -> Any:
            if self._world is not None:
                from dcp_runner.launch.store import stream

                hydra_config = HydraConfig.instance().cfg
                stream(self._world).send(
                    config=OmegaConf.to_yaml(cfg, resolve=True), hydra=OmegaConf.to_yaml(hydra_config)
                )
            return task(cfg)

        self.task = handing_on

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._world is not None:
            from dcp_runner.launch.store import stream

            stream(self._world).send(exit=exit_code(error))
            stream(self._world).part()


def _follow(task: TaskFunction, world: World) -> NoReturn:
    """The other ranks' side."""
    from dcp_runner.launch.store import stream

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
    from dcp_runner.launch.store import stream

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


def _refuse_bad_input(task: TaskFunction, config_path: str | None, config_name: str, check: Check | None) -> None:
    args, unknown = get_args_parser().parse_known_args()
    if args.info or args.shell_completion or args.hydra_help or args.experimental_rerun:
        return
    loader = _loader(task, args.config_path or config_path, args)
    problems, overrides = flag_problems(unknown)
    overrides = [*args.overrides, *overrides]
    multirun = args.multirun or any(text.startswith("hydra/launcher=dcp_") for text in overrides)
    found = examine(loader, args.config_name or config_name, overrides, multirun=multirun)
    problems += found.problems
    if not (args.help or args.cfg):
        problems += _launcher_problems(found, args)
        if check is not None and found.meant:
            problems += [text for cfg in found.jobs for text in _checked(cfg, check)]
    if problems:
        refuse(list(dict.fromkeys(problems)))


def _loader(task: TaskFunction, config_path: str | None, args: Namespace) -> ConfigLoader:
    """Hydra's own loader, over the search path that `hydra.main` is going to use."""
    setup_globals()
    JobRuntime.instance().set("name", task.__name__)
    calling_file, calling_module = detect_calling_file_or_module_from_task_function(task)
    search_path = create_automatic_config_search_path(calling_file, calling_module, config_path)
    if args.config_dir:
        place = os.path.abspath(args.config_dir)
        if not os.path.isdir(place):
            refuse([f"--config-dir {args.config_dir}: no such folder"])
        search_path.prepend("command-line", f"file://{place}", anchor=SearchPathQuery(provider="schema"))
    return ConfigLoaderImpl(config_search_path=search_path)


def _launcher_problems(found: Examined, args: Namespace) -> list[str]:
    """Somebody else's primary config, which does not know that naming our launcher makes a sweep."""
    for cfg in found.jobs:
        launcher = cfg.hydra.runtime.choices.get("hydra/launcher", "basic")
        if launcher != "basic" and not args.multirun and cfg.hydra.mode != RunMode.MULTIRUN:
            return [f"hydra/launcher={launcher}: it acts in a sweep only; add -m (a sweep of one job is fine)"]
    return []


def _checked(cfg: DictConfig, check: Check) -> Sequence[str]:
    """`check` as the program will see it: with Hydra's own node in place, and apart from the configuration."""
    with hydra_is(cfg):
        with read_write(cfg.hydra.runtime), open_dict(cfg.hydra.runtime):
            cfg.hydra.runtime.output_dir = str(OmegaConf.select(cfg, "hydra.run.dir"))
        bare = cfg.copy()
        with read_write(bare), open_dict(bare):
            del bare["hydra"]
        return check(bare)


@contextmanager
def hydra_is(cfg: DictConfig) -> Iterator[None]:
    """What a composed configuration says of Hydra is what the program is told."""
    before = HydraConfig.instance().cfg
    HydraConfig.instance().cfg = cast(Any, cfg)
    try:
        yield
    finally:
        HydraConfig.instance().cfg = before


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
