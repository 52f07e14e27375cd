"""A bad command line is answered with one report of everything that is wrong with it, before Hydra makes a folder."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import NoReturn

from hydra.core.config_search_path import SearchPathQuery
from hydra.core.utils import JobRuntime, setup_globals
from hydra.errors import HydraException
from hydra.types import RunMode, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from dcp_runner.common.errors import ConfigError, exit_with
from dcp_runner.common.folders import unwritable
from dcp_runner.launch.preflight.advice import flag_problems
from dcp_runner.launch.preflight.compose_cache import ComposeOnce
from dcp_runner.launch.preflight.hydra_private import (
    create_automatic_config_search_path,
    detect_calling_file_or_module_from_task_function,
    detect_task_name,
    get_args_parser,
    hydra_main_uses,
)
from dcp_runner.launch.preflight.overrides import CommandLineReport, examine
from dcp_runner.launch.preflight.sweep_folders import (
    blocked_folders,
    changed_jobs,
    hydra_config_set,
    job_folder_of,
    job_folders,
    shared_folders,
)

Check = Callable[[DictConfig], Sequence[str]]
"""What is wrong with a composed configuration."""


def exit_with_problems(problems: Sequence[str]) -> NoReturn:
    """Print the report and leave; all problems at once, nothing has been started."""
    exit_with(ConfigError(*problems))


def check_command_line(
    task: TaskFunction, config_path: str | None, config_name: str, check: Check | None
) -> AbstractContextManager[None]:
    """Return only if there is nothing to refuse; within the context, `hydra.main` has what was composed here. Flags
    that ask for a text, as --help, are Hydra's to answer.
    """
    args, unknown = get_args_parser().parse_known_args()
    if args.info or args.shell_completion or args.hydra_help or args.experimental_rerun:
        return nullcontext()
    loader = _loader(task, args.config_path or config_path, args)
    name, flags = args.config_name or config_name, [text for text in unknown if text.startswith("-")]
    overrides = [*args.overrides, *(text for text in unknown if "=" in text and text not in flags)]
    found = examine(loader, name, overrides, multirun=args.multirun)
    problems = [*(flag_problems(loader, name, flags) if flags else []), *found.problems]
    if not (args.help or args.cfg):
        problems += _launcher_problems(found)
        if check is not None and found.config_groups_ok:
            problems += [text for cfg in found.jobs for text in _checked(cfg, found.sweep, check)]
            problems += _folders_of_jobs(loader, found.sweep)
        problems += [] if problems else _unwritable(found)
    if problems:
        exit_with_problems(list(dict.fromkeys(problems)))
    return hydra_main_uses(loader)


def _loader(task: TaskFunction, config_path: str | None, args: Namespace) -> ComposeOnce:
    """A loader over the search path that `hydra.main` is going to use."""
    setup_globals()
    calling_file, calling_module = detect_calling_file_or_module_from_task_function(task)
    JobRuntime.instance().set("name", detect_task_name(calling_file, calling_module))
    search_path = create_automatic_config_search_path(calling_file, calling_module, config_path)
    if args.config_dir:
        folder = os.path.abspath(args.config_dir)
        if not os.path.isdir(folder):
            exit_with_problems([f"--config-dir {args.config_dir}: no such folder"])
        search_path.prepend("command-line", f"file://{folder}", anchor=SearchPathQuery(provider="schema"))
    return ComposeOnce(search_path)


def _launcher_problems(found: CommandLineReport) -> list[str]:
    """The primary config of another app, which does not know that naming our launcher makes a sweep."""
    for cfg in found.jobs:
        launcher = cfg.hydra.runtime.choices.get("hydra/launcher", "basic")
        if launcher != "basic" and cfg.hydra.mode is not RunMode.MULTIRUN:
            return [f"hydra/launcher={launcher}: works only in a sweep; add -m (a sweep of a single job is fine)"]
    return []


def _folders_of_jobs(loader: ComposeOnce, sweep: DictConfig | None) -> list[str]:
    """Of jobs that Hydra's own launcher will run here; ours looks at its jobs itself. What hinders looking at all of
    them, as an interval whose values only the sweeper knows, is reported by the sweeper or by `check`.
    """
    if sweep is None or "checkpoint" not in sweep or sweep.hydra.runtime.choices.get("hydra/launcher") != "basic":
        return []
    with suppress(HydraException, OmegaConfBaseException):
        folders = [*job_folders(loader, sweep)]
        return [*shared_folders(folders), *blocked_folders(folders), *changed_jobs(folders)]
    return []


def _unwritable(found: CommandLineReport) -> Iterator[str]:
    """The folder that Hydra makes before anything else, of a run or of a whole sweep."""
    key, composed = ("hydra.run.dir", found.jobs) if found.sweep is None else ("hydra.sweep.dir", [found.sweep])
    for cfg in composed:
        with suppress(OmegaConfBaseException), hydra_config_set(cfg):  # Hydra reports what cannot be resolved
            folder = Path(str(OmegaConf.select(cfg, key))).absolute()
            if why := unwritable(folder):
                yield f"{key}={folder}: it cannot be written: {why}"


def _checked(cfg: DictConfig, sweep: DictConfig | None, check: Check) -> Sequence[str]:
    """`check` as the program will see it: with Hydra's own node in place, and apart from the configuration. All jobs
    of a sweep have its time stamps.
    """
    stamps = cfg if sweep is None else sweep
    OmegaConf.copy_cache(from_config=stamps, to_config=cfg)
    with hydra_config_set(cfg):
        try:
            _enter_output_dir(cfg, sweep)
        except OmegaConfBaseException as error:
            return [f"{error.full_key or 'the output folder'}: {str(error).splitlines()[0]}"]
        bare = cfg.copy()
        with read_write(bare), open_dict(bare):
            del bare["hydra"]
        problems = check(bare)
    OmegaConf.copy_cache(from_config=bare, to_config=stamps)
    return problems


def _enter_output_dir(cfg: DictConfig, sweep: DictConfig | None) -> None:
    """What Hydra does before it calls the program."""
    if sweep is not None:
        job_folder_of(cfg, cfg.hydra.job.num, [])
        return
    with read_write(cfg.hydra.runtime), open_dict(cfg.hydra.runtime):
        cfg.hydra.runtime.output_dir = os.path.abspath(str(OmegaConf.select(cfg, "hydra.run.dir")))
