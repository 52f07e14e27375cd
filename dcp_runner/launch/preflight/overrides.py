"""What is wrong with a command line, all of it at once. Hydra stops at the first override that it cannot apply.

Where composing fails, the overrides are applied one after the other, config groups first, and each that fails is told
and left out. So every problem is found, and none that is only the consequence of another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict, read_write
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from dcp_runner.common.suggest import did_you_mean
from dcp_runner.launch.preflight.hydra_private import BASIC_SWEEPER
from dcp_runner.launch.preflight.sweep_folders import sweep_lines, task_overrides

SPELLINGS = {
    "accumulate_grad_batches": "trainer.accumulate",
    "ckpt_path": "resume",
    "dataset": "data",
    "devices": "parallel.dp",
    "eval_steps": "trainer.eval_every",
    "every_n_train_steps": "checkpoint.every_steps",
    "exp_name": "name",
    "experiment_name": "name",
    "gradient_accumulation_steps": "trainer.accumulate",
    "gradient_clip_val": "trainer.clip_norm",
    "global_batch_size": "data.batch_size",
    "keep_latest_k": "checkpoint.keep.last",
    "learning_rate": "optim.lr",
    "load_step": "resume",
    "log_every_n_steps": "logger.every_steps",
    "logging_steps": "logger.every_steps",
    "lr_scheduler": "schedule",
    "max_grad_norm": "trainer.clip_norm",
    "max_to_keep": "checkpoint.keep.last",
    "metric_for_best_model": "checkpoint.keep.metric",
    "monitor": "checkpoint.keep.metric",
    "nproc_per_node": "resources.tasks_per_node",
    "num_nodes": "resources.nodes",
    "num_workers": "data.workers",
    "optimizer": "optim",
    "output_dir": "hydra.run.dir",
    "per_device_train_batch_size": "data.batch_size",
    "resume_from_checkpoint": "resume",
    "run_name": "name",
    "save_interval": "checkpoint.every_steps",
    "save_steps": "checkpoint.every_steps",
    "save_top_k": "checkpoint.keep.best",
    "save_total_limit": "checkpoint.keep.last",
    "scheduler": "schedule",
    "task_name": "name",
    "train_batch_size": "data.batch_size",
    "val_check_interval": "trainer.eval_every",
}
"""What a key is called elsewhere, and here."""
MOST = 3
"""Values of a key that are tried before anything is started."""
_NOISE = ("full_key:", "object_type=", "reference_type=")


@dataclass
class CommandLineReport:
    """A command line, composed as far as it can be."""

    problems: list[str] = field(default_factory=list)
    meant: bool = True
    """Whether every config group was chosen as meant; if not, what was composed tells nothing about the values."""
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


def flag_problems(rest: Sequence[str]) -> tuple[list[str], list[str]]:
    """What argparse left over: flags that nobody knows, each with the key that is likely meant, and the overrides."""
    told: list[str] = []
    for text in rest:
        if text.startswith("-"):
            name, _, value = text.lstrip("-").partition("=")
            key = name.replace("-", "_")
            meant = f"{SPELLINGS.get(key, key)}={value or 'VALUE'}"
            told.append(f"{text}: no such flag; keys are given without dashes, as `{meant}`")
    return told, [text for text in rest if "=" in text and not text.startswith("-")]


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
    """The first line, and those in which one value is another."""
    first = lines[0]
    values = [list(dict.fromkeys(column)) for column in zip(*lines, strict=True)]
    tried = [{*column[:MOST], column[-1]} for column in values]
    for number, line in enumerate(lines):
        others = [place for place, value in enumerate(line) if value != first[place]]
        if not others or (len(others) == 1 and line[others[0]] in tried[others[0]]):
            yield number, line


def _job_lines(overrides: Sequence[str]) -> Iterator[list[str]]:
    """The same for a sweeper that makes its own jobs of them. Sweeps over intervals are left out, because only their
    sweeper knows the values.
    """
    choices = [
        _choices(override) if override.is_sweep_override() else [str(override.input_line)]
        for override in OverridesParser.create().parse_overrides(list(overrides))
        if override.is_discrete_sweep() or not override.is_sweep_override()
    ]
    choices = [[*values[:MOST], *values[MOST:][-1:]] for values in choices]
    first = [values[0] for values in choices]
    yield first
    for place, values in enumerate(choices):
        for value in values[1:]:
            yield [*first[:place], value, *first[place + 1 :]]


def _choices(override: Override) -> list[str]:
    return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]


def _applicable(
    loader: ConfigLoader, config_name: str | None, overrides: Sequence[str], multirun: bool, found: CommandLineReport
) -> list[str]:
    """The overrides that can be applied; for each other one a problem is told."""
    parsed: list[Override] = []
    for line in overrides:
        try:
            parsed += OverridesParser.create().parse_overrides([line])
        except HydraException as error:
            why = str(error).splitlines()[0]
            found.problems.append(f"{line}: not of the form key=value ({why}); quote special characters")
    try:
        base = loader.load_configuration(config_name, [], RunMode.RUN)
    except HydraException as error:
        found.problems.append(_text(error))
        found.meant = False
        return []
    good: list[str] = []
    for override in sorted(parsed, key=lambda o: not loader.get_group_options(o.key_or_group)):
        line = str(override.input_line)
        for choice in _choices(override) if multirun and override.is_discrete_sweep() else [line]:
            try:
                composed = loader.load_configuration(config_name, [*good, choice], RunMode.RUN)
            except HydraException as error:
                found.problems.append(_explain(choice, override.key_or_group, error, loader, base))
                found.meant &= not loader.get_group_options(override.key_or_group)
                break
        else:
            good.append(line)
            base = composed
    return good


def _explain(line: str, key: str, error: HydraException, loader: ConfigLoader, cfg: DictConfig) -> str:
    """One problem of one override: what was expected, and what was likely meant."""
    if isinstance(error, MissingConfigException) and error.options:
        options = [option for option in error.options if not option.startswith("base_")]
        return f"{line}: no such option; expected: {', '.join(options)}{did_you_mean(line.split('=')[-1], options)}"
    if isinstance(error.__cause__, (ConfigAttributeError, ConfigKeyError)):
        return f"{line}: no key `{key}`{_nearest(key, loader, cfg)}"
    if str(error).startswith("Ambiguous value"):
        name, _, value = line.partition("=")
        return f"{line}: several values are a sweep, which needs -m; a list is {name}=[{value}]"
    return f"{line}: {_text(error)}"


def _nearest(key: str, loader: ConfigLoader, cfg: DictConfig) -> str:
    of_hydra = key.startswith("hydra.")
    known = [*_keys(cfg.hydra, "hydra.")] if of_hydra else [*_keys(cfg), *loader.list_groups("")]
    parent, _, last = key.rpartition(".")
    if last in SPELLINGS or key in SPELLINGS:
        return f"; here it is `{SPELLINGS.get(key) or SPELLINGS[last]}`"
    elsewhere = [name for name in known if name.rpartition(".")[2] == last]
    siblings = [name.rpartition(".")[2] for name in known if name.rpartition(".")[0] == parent]
    if elsewhere:
        return f"; did you mean `{elsewhere[0]}`?"
    near = did_you_mean(last, siblings, below=f"{parent}." if parent else "") or did_you_mean(key, known)
    return near or f"; known: {', '.join(siblings or known)}"


def _keys(cfg: DictConfig, path: str = "") -> Iterator[str]:
    for key in cfg:
        if path or key != "hydra":
            yield f"{path}{key!s}"
            value = cfg._get_node(key)
            if isinstance(value, DictConfig) and not value._is_none() and not value._is_interpolation():
                yield from _keys(value, f"{path}{key!s}.")


def _text(error: HydraException) -> str:
    """Hydra's text and that of its cause, without their advice, in one line."""
    texts = [str(error)]
    if isinstance(error, ConfigCompositionException) and isinstance(error.__cause__, OmegaConfBaseException):
        texts = [str(error.__cause__)] if str(error).startswith("Error merging") else [*texts, str(error.__cause__)]
    lines = [line.strip() for text in texts for line in text.splitlines()]
    return " ".join(line for line in lines if line and not line.startswith(_NOISE))
