"""Everything that is wrong with the values of a configuration. Pure; `build_checks` looks at its `_target_`s.

Every text says what, where, expected, found, and the remedy if it is not obvious.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePath
from typing import Any

from dcp_runner.checkpoint.sharing import parse_sharing
from dcp_runner.checkpoint.topology import AXES
from dcp_runner.common.settings import settings
from dcp_runner.common.suggest import did_you_mean
from dcp_runner.config.convert import to_plain
from dcp_runner.config.schema import RunConfig
from dcp_runner.run.component_names import COMPONENTS

_RESUME_WORDS = ("auto", "never", "must", "latest", "best")


def check_config(config: RunConfig, *, exists: Callable[[str], bool] = os.path.exists) -> list[str]:
    """Values out of range, unknown names and contradictions, in a configuration whose degrees are resolved."""
    return [*_ranges(config), *_names(config, exists), *_contradictions(config)]


def _ranges(config: RunConfig) -> Iterator[str]:
    for entry in settings(config):
        value, facts = entry.value, entry.facts
        if value is None:
            continue
        if facts.at_least is not None and value < facts.at_least:
            yield f"{entry.key}: must be at least {facts.at_least} (found {value})"
        if facts.at_most is not None and value > facts.at_most:
            yield f"{entry.key}: must be at most {facts.at_most} (found {value})"
        if facts.above is not None and not value > facts.above:
            yield f"{entry.key}: must be more than {facts.above} (found {value})"


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
    options = [key for key in keys if may_be_option(key)]
    example = f", as `{'optim.lr' if 'optim.lr' in options else options[0]}`" if options else ""
    for key in config.resume_override:
        if key not in keys:
            yield f"resume_override: no key {key!r} in the configuration{did_you_mean(key, options)}"
        elif key not in options:
            yield (
                f"resume_override: a checkpoint holds no value of {key!r}; only options of the optimizer can be "
                f"overridden{example}. Every other key takes its new value anyway"
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
            f"data.batch_size={config.data.batch_size}: the global batch size must be divisible by "
            f"dp * fsdp * accumulate = {parallel.dp} * {parallel.fsdp} * {trainer.accumulate} = {share}; "
            f"try {f'{below} or ' if below else ''}{above}"
        )
    if config.resources.nodes >= 1 and size % config.resources.nodes:
        yield f"resources.nodes={config.resources.nodes}: {size} ranks cannot be divided equally among them"


def _dotted_keys(node: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for key, value in node.items():
        yield f"{path}{key}"
        if isinstance(value, Mapping):
            yield from _dotted_keys(value, f"{path}{key}.")
