"""What is wrong with the values of a configuration, all of it at once. Pure. What its `_target_`s say is building.py's.

Every text says what, where, expected, found, and the remedy if it is not plain.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePath
from typing import Any

from dcp_runner.checkpoint.sharing import parse_sharing
from dcp_runner.checkpoint.topology import AXES
from dcp_runner.common.suggest import did_you_mean
from dcp_runner.config.convert import to_plain
from dcp_runner.config.schema import RunConfig

COMPONENTS = ("model", "optimizer", "scheduler", "dataset", "rng", "progress", "callbacks")
"""Parts of the training state that a checkpoint holds and whose sharing can be declared."""
_RESUME_WORDS = ("auto", "never", "must", "latest", "best")
_AT_LEAST = {
    "seed": 0,
    "verify_resume": 0,
    "trainer.max_steps": 1,
    "trainer.eval_every": 1,
    "trainer.eval_samples": 1,
    "trainer.accumulate": 1,
    "data.batch_size": 1,
    "data.workers": 0,
    "schedule.warmup_steps": 0,
    "schedule.min_ratio": 0,
    "schedule.steps": 1,
    "checkpoint.every_steps": 1,
    "checkpoint.keep.last": 1,
    "checkpoint.keep.best": 0,
    "checkpoint.keep.every": 1,
    "checkpoint.keep.retired": 0,
    "logger.every_steps": 1,
    "resources.nodes": 1,
    "resources.tasks_per_node": 1,
    "resources.gpus_per_node": 0,
    "resources.cpus_per_task": 1,
    "resources.time_min": 1,
    "resources.requeues": 0,
}
_ABOVE_ZERO = (
    "checkpoint.every_minutes",
    "checkpoint.timeout_s",
    "parallel.timeout_s",
    "trainer.clip_norm",
    "resources.mem_gb",
)


def check_config(config: RunConfig, *, exists: Callable[[str], bool] = os.path.exists) -> list[str]:
    """Values out of range, unknown names and contradictions, in a configuration whose degrees are resolved."""
    return [*_ranges(to_plain(config)), *_names(config, exists), *_contradictions(config)]


def _ranges(plain: Mapping[str, Any]) -> Iterator[str]:
    for key, least in _AT_LEAST.items():
        value = _value(plain, key)
        if value is not None and value < least:
            yield f"{key}: at least {least} (found {value})"
    for key in _ABOVE_ZERO:
        value = _value(plain, key)
        if value is not None and not value > 0:
            yield f"{key}: more than 0 (found {value})"
    if plain["schedule"]["min_ratio"] > 1:
        yield f"schedule.min_ratio: at most 1 (found {plain['schedule']['min_ratio']})"


def _names(config: RunConfig, exists: Callable[[str], bool]) -> Iterator[str]:
    path = PurePath(config.name)
    if not config.name.strip() or path.is_absolute() or ".." in path.parts or "=" in config.name:
        yield f"name: a relative path without `..` and `=`, below `outputs` (found {config.name!r})"
    components = (*COMPONENTS, *config.callbacks)
    for name, text in config.sharing.items():
        yield from _unknown("sharing", name, components)
        yield from _sharing_text(f"sharing.{name}", text)
    for name in config.checkpoint.validation_for:
        yield from _unknown("checkpoint.validation_for", name, components)
    for name in config.resume_skip:
        yield from _unknown("resume_skip", name, components)
    yield from _overridden(config)
    resume = str(config.resume)
    if not (resume in _RESUME_WORDS or resume.isdecimal() or exists(resume)):
        near = did_you_mean(resume, _RESUME_WORDS)
        yield f"resume={resume}: {', '.join(_RESUME_WORDS)}, a step, or an existing path{near}"


def _overridden(config: RunConfig) -> Iterator[str]:
    keys = [*_dotted_keys(to_plain(config))]
    for key in config.resume_override:
        if key not in keys:
            yield f"resume_override: no key {key!r} in the configuration{did_you_mean(key, keys)}"
        elif not may_be_option(key):
            yield (
                f"resume_override: a checkpoint holds no value of {key!r}, so there is none to override; expected "
                "options of the optimizer, as `optim.lr`. Every other key has its new value without it"
            )


def may_be_option(key: str) -> bool:
    return key.startswith("optim.") and not key.startswith("optim._")


def _unknown(where: str, name: str, known: tuple[str, ...]) -> Iterator[str]:
    if name not in known:
        yield f"{where}: no component {name!r}{did_you_mean(name, known)}; components: {', '.join(known)}"


def _sharing_text(where: str, text: str) -> Iterator[str]:
    if text == "auto":
        return
    try:
        axes = parse_sharing(text).axes
    except ValueError as error:
        yield f"{where}: {error}"
        return
    for axis in axes:
        if axis not in AXES:
            near = did_you_mean(axis, AXES, cutoff=0.5)
            yield f"{where}={text}: no mesh axis {axis!r}{near}; axes: {', '.join(AXES)}"


def _contradictions(config: RunConfig) -> Iterator[str]:
    parallel, trainer, size = config.parallel, config.trainer, config.parallel.world_size
    share = parallel.data_parallel_size * trainer.accumulate
    if config.data.batch_size >= 1 and share >= 1 and config.data.batch_size % share:
        below, above = config.data.batch_size // share * share, -(-config.data.batch_size // share) * share
        yield (
            f"data.batch_size={config.data.batch_size}: it is the global one, and must divide by "
            f"dp {parallel.dp} x fsdp {parallel.fsdp} x accumulate {trainer.accumulate} = {share}; "
            f"try {f'{below} or ' if below else ''}{above}"
        )
    if config.resources.nodes >= 1 and size % config.resources.nodes:
        yield f"resources.nodes={config.resources.nodes}: {size} ranks do not divide into as many equal nodes"


def _value(plain: Mapping[str, Any], key: str) -> Any:
    node: Any = plain
    for part in key.split("."):
        node = node[part]
    return node


def _dotted_keys(node: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for key, value in node.items():
        yield f"{path}{key}"
        if isinstance(value, Mapping):
            yield from _dotted_keys(value, f"{path}{key}.")
