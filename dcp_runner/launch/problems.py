"""What is wrong with a configuration, all of it at once. Pure but for the import of what `_target_`s name; what must be
built for an answer is built in another process.

Every text says what, where, expected, found, and the remedy if it is not plain.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import PurePath
from typing import Any

from dcp_runner.checkpoint.config import KeepConfig
from dcp_runner.checkpoint.sharing import parse_sharing
from dcp_runner.config import RunConfig, did_you_mean, to_plain
from dcp_runner.launch.aside import aside
from dcp_runner.launch.degrees import AXES, degrees, world_size
from dcp_runner.launch.targets import locate, node_problems, signature_problems
from dcp_runner.train.policies import recorded

COMPONENTS = ("model", "optimizer", "scheduler", "dataset", "rng", "progress", "callbacks")
"""Parts of the training state that a checkpoint holds and whose sharing can be declared."""
_BUILDING = "model, parallel.strategy: trying whether they fit"
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


def problems(config: RunConfig, *, exists: Callable[[str], bool] = os.path.exists) -> list[str]:
    """Values out of range, unknown names and contradictions, in a configuration whose degrees are resolved."""
    return [*_ranges(to_plain(config)), *_names(config, exists), *_contradictions(config)]


def target_problems(config: RunConfig) -> list[str]:
    """Import paths that lead nowhere, keys that their targets do not take, and what the strategy says against the
    run. Imports the targets; may build the model, without data, in another process.

    Raises:
        ConfigError: that process ended without an answer.
    """
    found: list[str] = []
    found += node_problems("model", config.model)
    found += _loss_problems(config.loss)
    found += node_problems("data.train", config.data.train)
    if config.data.eval is not None:
        found += node_problems("data.eval", config.data.eval)
    found += [*node_problems("optim", config.optim, given=("params",))] or _closure_problems(config.optim)
    for name, node in config.callbacks.items():
        found += node_problems(f"callbacks.{name}", node)
    for name, node in config.logger.trackers.items():
        found += node_problems(f"logger.trackers.{name}", node, given=("run_dir", "run_id"))
    try:
        strategy = locate(config.parallel.strategy)
    except LookupError as error:
        return [*found, f"parallel.strategy={config.parallel.strategy}: {error.args[0]}"]
    found += signature_problems("parallel.options", strategy, list(config.parallel.options), complete=False)
    if found:
        return found
    if world_size(config.parallel) > 1:
        import torch._dynamo  # noqa: F401 (slow, and imported by what is done in the other process, and in all ranks)
    return aside(_BUILDING, lambda: [*_no_options(config), *_strategy_problems(config, strategy)])


def _no_options(config: RunConfig) -> Iterator[str]:
    """Keys of `optim` that its groups do not have as options. Builds model and optimizer, without data."""
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    keys = [key for key in config.resume_override if _may_be_option(key)]
    if not keys:
        return
    try:
        trained = [parameter for parameter in _outline(config).parameters() if parameter.requires_grad]
        groups = instantiate(config.optim, trained, _convert_="all").param_groups
    except InstantiationException as error:
        yield f"optim: building it fails: {error.__cause__ or error}"
        return
    options = sorted({key for group in groups for key in group} - {"params", "param_names"})
    for key in keys:
        if (option := key.removeprefix("optim.")) not in options:
            near = did_you_mean(option, options, below="optim.")
            yield f"resume_override: {key} is no option of the optimizer's groups{near or f'; they are {options}'}"


def _strategy_problems(config: RunConfig, kind: Any) -> Iterator[str]:
    """In a configuration whose targets are right."""
    from hydra.errors import InstantiationException

    from dcp_runner.train.strategy import Intended, Strategy

    parallel = config.parallel
    if not (inspect.isclass(kind) and issubclass(kind, Strategy)):
        yield f"parallel.strategy={parallel.strategy}: it is no dcp_runner.train.strategy.Strategy"
        return
    try:
        strategy = kind(**parallel.options)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        yield f"parallel.options: {error}"
        return
    unused = [axis for axis, degree in degrees(parallel).items() if degree > 1 and axis not in strategy.axes]
    for axis in unused:
        uses = f"the axes {', '.join(strategy.axes)}" if strategy.axes else "no axis"
        yield (
            f"parallel.{axis}={getattr(parallel, axis)}: {kind.__name__} uses {uses}; "
            "take 1, or another topology (parallel=...)"
        )
    share = parallel.dp * parallel.fsdp * config.trainer.accumulate
    samples = 0 if config.data.batch_size % share else config.data.batch_size // share
    try:
        yield from strategy.problems(Intended(degrees(parallel), samples, partial(_outline, config), parallel.plan))
    except InstantiationException as error:
        yield f"model: building it fails: {error.__cause__ or error}"


def _outline(config: RunConfig) -> Any:
    """The model on the meta device."""
    import torch
    from hydra.utils import instantiate

    with torch.device("meta"):
        return instantiate(config.model, _convert_="all")


def _loss_problems(node: Mapping[str, Any]) -> Iterator[str]:
    with suppress(LookupError):
        if inspect.isclass(locate(str(node.get("_target_")))):
            yield f"loss._target_={node['_target_']}: a class; a function of (outputs, targets) is needed"
            return
    yield from node_problems("loss", node, given=("outputs", "targets"))


def _closure_problems(node: Mapping[str, Any]) -> Iterator[str]:
    kind: Any = locate(str(node["_target_"]))
    if not (inspect.isclass(kind) and hasattr(kind, "step")):
        return
    closure = inspect.signature(kind.step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        yield (
            f"optim._target_={node['_target_']}: its step computes the loss several times, by a closure, and the "
            "training loop computes it once; take another optimizer"
        )


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
        elif not _may_be_option(key):
            yield (
                f"resume_override: a checkpoint holds no value of {key!r}, so there is none to override; expected "
                "options of the optimizer, as `optim.lr`. Every other key has its new value without it"
            )


def _may_be_option(key: str) -> bool:
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
    parallel, trainer, size = config.parallel, config.trainer, world_size(config.parallel)
    share = parallel.dp * parallel.fsdp * trainer.accumulate
    if config.data.batch_size >= 1 and share >= 1 and config.data.batch_size % share:
        below, above = config.data.batch_size // share * share, -(-config.data.batch_size // share) * share
        yield (
            f"data.batch_size={config.data.batch_size}: it is the global one, and must divide by "
            f"dp {parallel.dp} x fsdp {parallel.fsdp} x accumulate {trainer.accumulate} = {share}; "
            f"try {f'{below} or ' if below else ''}{above}"
        )
    yield from _metric(config)
    if config.resources.nodes >= 1 and size % config.resources.nodes:
        yield f"resources.nodes={config.resources.nodes}: {size} ranks do not divide into as many equal nodes"


def _metric(config: RunConfig) -> Iterator[str]:
    """The default metric is no problem: without an evaluation it only keeps nothing."""
    metric, evaluates = config.checkpoint.keep.metric, config.data.eval is not None and bool(config.trainer.eval_every)
    known = recorded(evaluates)
    by_callback = evaluates and config.callbacks  # they may add to the metrics of an evaluation
    if metric not in known and metric != KeepConfig.metric and not by_callback:
        near = did_you_mean(metric, known)
        yield f"checkpoint.keep.metric={metric}: nothing records it{near}; this run has {', '.join(known)}"


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
