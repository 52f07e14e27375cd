"""A bad command line is answered with one report of everything that is wrong with it, before Hydra makes a folder."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from hydra._internal.config_loader_impl import ConfigLoaderImpl  # the only way to compose before a folder is made
from hydra._internal.utils import (
    create_automatic_config_search_path,
    detect_calling_file_or_module_from_task_function,
    get_args_parser,
)
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.utils import JobRuntime, setup_globals
from hydra.errors import HydraException
from hydra.types import RunMode, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from dcp_runner.common.errors import ConfigError, exit_with
from dcp_runner.common.folders import unwritable
from dcp_runner.launch.preflight.overrides import CommandLineReport, examine, flag_problems
from dcp_runner.launch.preflight.sweep_folders import (
    blocked_folders,
    changed_jobs,
    hydra_config_set,
    places_in_turn,
    shared_folders,
)

Check = Callable[[DictConfig], Sequence[str]]
"""What is wrong with a composed configuration."""


def exit_with_problems(problems: Sequence[str]) -> NoReturn:
    """Print the report and leave; all problems at once, nothing has been started."""
    exit_with(ConfigError(*problems))


def check_command_line(task: TaskFunction, config_path: str | None, config_name: str, check: Check | None) -> None:
    """Return only if there is nothing to refuse. Flags that ask for a text, as --help, are left to Hydra."""
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
            if multirun:
                problems += _folders_of_jobs(loader, args.config_name or config_name, overrides, found.jobs[:1])
        problems += [] if problems else _unwritable(found.jobs[:1], multirun)
    if problems:
        exit_with_problems(list(dict.fromkeys(problems)))


def _loader(task: TaskFunction, config_path: str | None, args: Namespace) -> ConfigLoader:
    """Hydra's own loader, over the search path that `hydra.main` is going to use."""
    setup_globals()
    JobRuntime.instance().set("name", task.__name__)
    calling_file, calling_module = detect_calling_file_or_module_from_task_function(task)
    search_path = create_automatic_config_search_path(calling_file, calling_module, config_path)
    if args.config_dir:
        place = os.path.abspath(args.config_dir)
        if not os.path.isdir(place):
            exit_with_problems([f"--config-dir {args.config_dir}: no such folder"])
        search_path.prepend("command-line", f"file://{place}", anchor=SearchPathQuery(provider="schema"))
    return ConfigLoaderImpl(config_search_path=search_path)


def _launcher_problems(found: CommandLineReport, args: Namespace) -> list[str]:
    """Somebody else's primary config, which does not know that naming our launcher makes a sweep."""
    for cfg in found.jobs:
        launcher = cfg.hydra.runtime.choices.get("hydra/launcher", "basic")
        if launcher != "basic" and not args.multirun and cfg.hydra.mode != RunMode.MULTIRUN:
            return [f"hydra/launcher={launcher}: it acts in a sweep only; add -m (a sweep of one job is fine)"]
    return []


def _folders_of_jobs(
    loader: ConfigLoader, config_name: str | None, overrides: Sequence[str], jobs: Sequence[DictConfig]
) -> list[str]:
    """Of jobs that Hydra's own launcher will run here; ours looks at its jobs itself. What hinders looking at all of
    them, as an interval whose values only the sweeper knows, is told by the sweeper or by `check`.
    """
    with suppress(HydraException, OmegaConfBaseException):
        for job in jobs:
            if "checkpoint" in job and job.hydra.runtime.choices.get("hydra/launcher") == "basic":
                places = [*places_in_turn(loader, config_name, overrides, job)]
                return [*shared_folders(places), *blocked_folders(places), *changed_jobs(places)]
    return []


def _unwritable(jobs: Sequence[DictConfig], multirun: bool) -> Iterator[str]:
    """The folder that Hydra makes before anything else, of a run or of a whole sweep."""
    key = "hydra.sweep.dir" if multirun else "hydra.run.dir"
    for cfg in jobs:
        with suppress(OmegaConfBaseException), hydra_config_set(cfg):  # what cannot be resolved is told by Hydra
            folder = Path(str(OmegaConf.select(cfg, key))).absolute()
            if why := unwritable(folder):
                yield f"{key}={folder}: it cannot be written: {why}"


def _checked(cfg: DictConfig, check: Check) -> Sequence[str]:
    """`check` as the program will see it: with Hydra's own node in place, and apart from the configuration."""
    with hydra_config_set(cfg):
        with read_write(cfg.hydra.runtime), open_dict(cfg.hydra.runtime):
            cfg.hydra.runtime.output_dir = str(OmegaConf.select(cfg, "hydra.run.dir"))
        bare = cfg.copy()
        with read_write(bare), open_dict(bare):
            del bare["hydra"]
        return check(bare)
