"""The whole configuration of a run as typed data. Hydra's DictConfig ends here.

The road of a configuration: YAML and overrides, composed by Hydra into a DictConfig -> `load` -> RunConfig, which the
launcher completes -> `to_plain` -> a dict that travels to the ranks and into the run folder -> `from_plain` -> the
same RunConfig. Everything is closed (an unknown key is an error) but the open nodes, whose keys are checked against
their `_target_` instead.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from enum import Enum, StrEnum
from functools import cache
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dcp_runner.checkpoint.config import CheckpointConfig
from dcp_runner.train.changes import IGNORED
from dcp_runner.train.config import (
    DataConfig,
    LoggerConfig,
    ParallelConfig,
    ResourcesConfig,
    ScheduleConfig,
    TrainerConfig,
)

OPEN_NODES = (
    "model",
    "loss",
    "optim",
    "data.train",
    "data.eval",
    "parallel.options",
    "parallel.plan.first",
    "callbacks",
    "logger.trackers",
    "sharing",
    "checkpoint.validation_for",
)
"""Nodes that take new keys on the command line without a `+`."""

_NOT_HASHED = {*IGNORED, "optimized_metric", "verify_resume", "resources", "logger"}


class ConfigError(ValueError):
    """Everything that is wrong with a configuration, told at once. Shown to people as it is, without a traceback."""

    def __init__(self, *problems: str) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(f"  * {problem}" for problem in self.problems))


class ResumeRng(StrEnum):
    """What happens to the random generators on resuming."""

    strict = "strict"
    reseed = "reseed"


def did_you_mean(name: str, known: Iterable[str], *, below: str = "", cutoff: float = 0.6) -> str:
    """The end of a message about an unknown name: the nearest known one, told with its place `below`; or nothing."""
    known = list(known)
    same = [candidate for candidate in known if candidate.lower() == name.lower()]
    near = same or get_close_matches(name, known, n=1, cutoff=cutoff)
    return f"; did you mean `{below}{near[0]}`?" if near else ""


@dataclass(kw_only=True)
class RunConfig:
    """One run."""

    name: str = "${now:%Y-%m-%d}/${now:%H-%M-%S.%f}"
    """Name of the run folder below `outputs/`. Give one, and the same command continues the same run."""
    seed: int = 0
    """Weights, data order and dropout all come from it."""
    optimized_metric: str = "eval_loss"
    """What the run returns, for sweepers that optimise (`hydra/sweeper=optuna`): the last value of this metric."""
    dry_run: bool = False
    """Show the plan (and, with a launcher, the batch scripts), and start nothing."""
    resume: int | str = "auto"
    """auto, never, must, latest, best, a step, a run folder or a `checkpoint-N` folder. Of another run it names where
    this one begins; once this one has checkpoints that began there, the same command goes on from them.
    """
    resume_skip: list[str] = field(default_factory=list)
    """Components that are left as they were built, not loaded."""
    resume_rng: ResumeRng = ResumeRng.strict
    """strict restores the generators; reseed derives them anew from (seed, step, rank)."""
    resume_override: list[str] = field(default_factory=list)
    """Keys whose new value wins over the value in the checkpoint, as `optim.lr`."""
    resume_sweep: str | None = None
    """The folder of a sweep: do what is left of it. Its command need not be repeated."""
    resume_sweep_changed: bool = False
    """Let `resume_sweep` run jobs that are not what they were when the sweep was submitted."""
    verify_resume: int = 0
    """N: instead of training, try whether N steps, a resume and N steps are 2N steps, bit for bit; 0: train."""
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    sharing: dict[str, str] = field(default_factory=dict)
    """For each component `auto` or a pattern: global, replicated, per_rank, per_node, per_group:<axes>."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    model: dict[str, Any] = field(default_factory=dict)
    """A `_target_` (an nn.Module) and its arguments."""
    loss: dict[str, Any] = field(default_factory=dict)
    """A `_target_` called as (outputs, targets) -> scalar tensor, the mean over the samples."""
    data: DataConfig = field(default_factory=DataConfig)
    optim: dict[str, Any] = field(default_factory=dict)
    """A `_target_` (a torch optimizer) and its arguments but the parameters."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    resources: ResourcesConfig = field(default_factory=ResourcesConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    callbacks: dict[str, Any] = field(default_factory=dict)
    """Own callbacks by name: `+callbacks.ema={_target_: my.Ema}`."""


@cache
def schemas() -> dict[str, DictConfig]:
    """The types of all config groups as Hydra wants them: `base_config`, and `<group>/base_<group>`."""
    root = OmegaConf.structured(RunConfig)
    for path in OPEN_NODES:
        group, _, name = path.rpartition(".")
        parent = OmegaConf.select(root, group) if group else root
        OmegaConf.set_struct(parent._get_node(name), False)  # data.eval is null, so it cannot be selected
    groups = [group for group, default in vars(RunConfig()).items() if is_dataclass(default)]
    return {"base_config": root, **{f"{group}/base_{group}": root[group] for group in groups}}


def load(cfg: DictConfig) -> RunConfig:
    """Turn what Hydra composed into typed data. A foreign app may have keys of its own beside ours.

    Raises:
        ConfigError: values that are missing, of a wrong type or cannot be resolved; keys that do not exist.
    """
    names = [str(key) for key in cfg if key != "hydra"]
    typed = OmegaConf.get_type(cfg) is RunConfig
    if not typed:
        known = {group.name for group in fields(RunConfig)}
        names = [name for name in names if name in known or get_close_matches(name, known, 1, 0.8)]
    try:
        plain = {name: _value(cfg, name, OmegaConf.to_container) for name in names}
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {_first_line(error)}") from error
    problems = [f"{path}: it must be given (found `???`)" for path, value in _leaves(plain) if value == "???"]
    problems = problems or list(_unknown_keys(RunConfig(), plain))
    if problems:
        raise ConfigError(*problems)
    return RunConfig(**{name: _value(cfg, name, OmegaConf.to_object) for name in names}) if typed else from_plain(plain)


def _value(cfg: DictConfig, name: str, convert: Callable[..., Any]) -> Any:
    if OmegaConf.is_missing(cfg, name):
        return "???"
    value = cfg[name]
    if not OmegaConf.is_config(value):
        return value
    return convert(value, resolve=True) if convert is OmegaConf.to_container else convert(value)


def to_plain(config: RunConfig) -> dict[str, Any]:
    """The configuration as dicts, lists and scalars, ready for JSON; `from_plain` is the way back."""
    return cast(dict[str, Any], _plain(asdict(config)))


def from_plain(plain: Mapping[str, Any]) -> RunConfig:
    """Typed data from dicts, lists and scalars; keys that are not given have their defaults.

    Raises:
        ConfigError: unknown keys, each with the nearest known one; a value of a wrong type.
    """
    unknown = list(_unknown_keys(RunConfig(), plain))
    if unknown:
        raise ConfigError(*unknown)
    try:
        merged = OmegaConf.merge(OmegaConf.structured(RunConfig), OmegaConf.create(literal(dict(plain))))
        return cast(RunConfig, OmegaConf.to_object(merged))
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {_first_line(error)}") from error


def config_hash(config: RunConfig) -> str:
    """A digest of everything that shapes the training; not of what the run is called or how it was started."""
    plain = {key: value for key, value in to_plain(config).items() if key not in _NOT_HASHED}
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:32]


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in inner:
        yield from _leaves(value, f"{path}.{key}" if path else str(key))
    if not isinstance(node, (dict, list)):
        yield path, node


def _first_line(error: OmegaConfBaseException) -> str:
    return str(error).splitlines()[0]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value.value if isinstance(value, Enum) else value


def literal(value: Any) -> Any:
    """Resolved text may hold `${`; it is not an interpolation any more."""
    if isinstance(value, dict):
        return {key: literal(item) for key, item in value.items()}
    if isinstance(value, list):
        return [literal(item) for item in value]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value


def _unknown_keys(schema: Any, plain: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Keys below typed nodes that their dataclass lacks. OmegaConf takes `+trainer.x=1` and drops it silently."""
    known = {entry.name: getattr(schema, entry.name) for entry in fields(schema)}
    for key, value in plain.items():
        where = f"{path}{key}"
        if key not in known:
            near = get_close_matches(key, known, n=1)
            yield f"{where}: no such key; " + (
                f"did you mean `{path}{near[0]}`?" if near else f"known: {', '.join(known)}"
            )
        elif is_dataclass(known[key]) and isinstance(value, Mapping):
            yield from _unknown_keys(known[key], value, f"{where}.")
