"""What is wrong with a command line, all of it at once. Hydra stops at the first override that it cannot apply.

Where composing fails, the overrides are applied one after the other, config groups first, and each that fails is
reported and dropped. So every problem is found, and none that is only the consequence of another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict, read_write

from dcp_runner.launch.preflight.advice import explain, text_of
from dcp_runner.launch.preflight.hydra_private import BASIC_SWEEPER
from dcp_runner.launch.preflight.sweep_folders import sweep_lines, task_overrides

MOST = 3
"""Values of a key that are tried before anything is started."""


@dataclass
class CommandLineReport:
    """A command line, composed as far as it can be."""

    problems: list[str] = field(default_factory=list)
    config_groups_ok: bool = True
    """Whether every choice of a config group composed; if not, the values that were composed say nothing."""
    jobs: list[DictConfig] = field(default_factory=list)
    """The composed configuration of the run, or those of some jobs of a sweep, in which every value occurs."""
    sweep: DictConfig | None = None
    """The composed configuration of the sweep; None: it is a single run."""


def examine(
    loader: ConfigLoader, config_name: str | None, overrides: Sequence[str], *, multirun: bool
) -> CommandLineReport:
    """Compose a command line; if that fails, report all reasons and compose what remains. `multirun` is the flag, which
    a configuration can make superfluous.
    """
    found = CommandLineReport()
    try:
        _compose(loader, config_name, list(overrides), multirun, found)
    except HydraException:
        good = _applicable(loader, config_name, overrides, multirun or _names_launcher(overrides), found)
        with suppress(HydraException):
            _compose(loader, config_name, good, multirun, found)
    return found


def _compose(
    loader: ConfigLoader, config_name: str | None, overrides: list[str], multirun: bool, found: CommandLineReport
) -> None:
    """Compose what Hydra will compose for this command, in its words.

    Raises:
        HydraException: it cannot be composed.
    """
    as_sweep = multirun or _names_launcher(overrides)
    sweep = _as_hydra(loader, config_name, overrides, as_sweep)
    if multirun and sweep.hydra.mode is not RunMode.MULTIRUN:
        sweep = loader.load_configuration(config_name, [*overrides, "hydra.mode=MULTIRUN"], RunMode.MULTIRUN)
    elif not as_sweep and sweep.hydra.mode is not RunMode.MULTIRUN:
        found.jobs = [sweep]
        return
    jobs = []
    for number, line in _some_jobs(loader, sweep):
        job = loader.load_sweep_config(sweep, line)
        with read_write(job.hydra), open_dict(job.hydra):
            job.hydra.job.id = job.hydra.job.num = number
        jobs.append(job)
    if not jobs:
        raise HydraException("a glob() matches no option, so the sweep has no jobs")
    found.sweep, found.jobs = sweep, jobs


def _as_hydra(loader: ConfigLoader, config_name: str | None, overrides: list[str], as_sweep: bool) -> DictConfig:
    """A configuration can itself make a sweep of every command (`hydra.mode: MULTIRUN`)."""
    if as_sweep:
        return loader.load_configuration(config_name, overrides, RunMode.MULTIRUN)
    try:
        return loader.load_configuration(config_name, overrides, RunMode.RUN)
    except HydraException:  # as several values of a key are, in a single run
        with suppress(HydraException):
            sweep = loader.load_configuration(config_name, overrides, RunMode.MULTIRUN)
            if sweep.hydra.mode is RunMode.MULTIRUN:
                return sweep
        raise


def _names_launcher(overrides: Sequence[str]) -> bool:
    """Naming one of our launchers makes a sweep."""
    return any(text.startswith("hydra/launcher=dcp_") for text in overrides)


def _some_jobs(loader: ConfigLoader, sweep: DictConfig) -> list[tuple[int, list[str]]]:
    """Jobs of a sweep in which every value occurs, with their numbers. Not every combination of values: there may be
    thousands. Of a key with many values the first ones and the last.
    """
    if sweep.hydra.sweeper.get("_target_") == BASIC_SWEEPER:
        with suppress(HydraException):
            return list(_differing_in_one(sweep_lines(loader, sweep)))
    return list(enumerate(_job_lines(task_overrides(sweep))))


def _differing_in_one(lines: Sequence[list[str]]) -> Iterator[tuple[int, list[str]]]:
    """The first line, and those that differ from it in a single value."""
    if not lines:
        return
    first = lines[0]
    values = [list(dict.fromkeys(column)) for column in zip(*lines, strict=True)]
    tried = [{*column[:MOST], column[-1]} for column in values]
    for number, line in enumerate(lines):
        others = [column for column, value in enumerate(line) if value != first[column]]
        if not others or (len(others) == 1 and line[others[0]] in tried[others[0]]):
            yield number, line


def _job_lines(overrides: Sequence[str]) -> Iterator[list[str]]:
    """The same for a sweeper that makes its own jobs of them. Sweeps over intervals are skipped, because only their
    sweeper knows the values.
    """
    choices = [
        _choices(override) if override.is_sweep_override() else [str(override.input_line)]
        for override in OverridesParser.create().parse_overrides(list(overrides))
        if override.is_discrete_sweep() or not override.is_sweep_override()
    ]
    choices = [[*values[:MOST], *values[MOST:][-1:]] for values in choices]
    if not all(choices):
        return
    first = [values[0] for values in choices]
    yield first
    for column, values in enumerate(choices):
        for value in values[1:]:
            yield [*first[:column], value, *first[column + 1 :]]


def _choices(override: Override) -> list[str]:
    return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]


def _applicable(
    loader: ConfigLoader, config_name: str | None, overrides: Sequence[str], multirun: bool, found: CommandLineReport
) -> list[str]:
    """The overrides that can be applied; each of the others is reported."""
    parsed: list[Override] = []
    for line in overrides:
        try:
            parsed += OverridesParser.create(loader).parse_overrides([line])
        except HydraException as error:
            why = str(error).splitlines()[0]
            found.problems.append(f"{line}: not of the form key=value ({why}); quote special characters")
    try:
        base = loader.load_configuration(config_name, [], RunMode.RUN)
    except HydraException as error:
        found.problems.append(text_of(error))
        found.config_groups_ok = False
        return []
    good: list[str] = []
    applied: list[str] = []
    """The good ones for a single run: of several values the first."""
    for override in sorted(parsed, key=lambda o: not loader.get_group_options(o.key_or_group)):
        line = str(override.input_line)
        choices = _choices(override) if multirun and override.is_discrete_sweep() else [line]
        if not choices:
            options = loader.get_group_options(override.key_or_group)
            expected = ", ".join(option for option in options if not option.startswith("base_"))
            found.problems.append(f"{line}: matches no option of {override.key_or_group}; expected: {expected}")
            continue
        for choice in choices:
            try:
                composed = loader.load_configuration(config_name, [*applied, choice], RunMode.RUN)
            except HydraException as error:
                found.problems.append(explain(choice, override.key_or_group, error, loader, config_name, base))
                found.config_groups_ok &= not loader.get_group_options(override.key_or_group)
                break
        else:
            good.append(line)
            applied.append(choices[0])
            base = composed
    return good
