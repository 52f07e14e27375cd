"""What is wrong with what a configuration builds: imports what its `_target_`s name, and tries in another process
whatever must be built for an answer.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from dcp_runner.checkpoint.config import KeepConfig
from dcp_runner.common.suggest import did_you_mean
from dcp_runner.config.schema import RunConfig
from dcp_runner.launch.preflight.child_process import in_child_process
from dcp_runner.launch.preflight.config_checks import may_be_option
from dcp_runner.launch.preflight.target_checks import locate, node_problems, signature_problems
from dcp_runner.train.policies import recorded_metrics

_BUILDING = "model, parallel.strategy: trying whether they fit"


def check_targets(config: RunConfig) -> list[str]:
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
    callbacks = [
        problem for name, node in config.callbacks.items() for problem in node_problems(f"callbacks.{name}", node)
    ]
    found += callbacks or _metric_problems(config)
    for name, node in config.logger.trackers.items():
        found += node_problems(f"logger.trackers.{name}", node, given=("run_dir", "run_id"))
    try:
        strategy = locate(config.parallel.strategy)
    except LookupError as error:
        return [*found, f"parallel.strategy={config.parallel.strategy}: {error.args[0]}"]
    found += signature_problems("parallel.options", strategy, list(config.parallel.options), complete=False)
    if found:
        return found
    if config.parallel.world_size > 1:
        import torch._dynamo  # noqa: F401 (slow, and imported by what is done in the other process, and in all ranks)
    return in_child_process(_BUILDING, lambda: [*_no_options(config), *_strategy_problems(config, strategy)])


def _no_options(config: RunConfig) -> Iterator[str]:
    """Keys of `optim` that its groups do not have as options. Builds model and optimizer, without data."""
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    keys = [key for key in config.resume_override if may_be_option(key)]
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

    from dcp_runner.train.parallel.strategy import PlannedRun, Strategy

    parallel = config.parallel
    if not (inspect.isclass(kind) and issubclass(kind, Strategy)):
        yield f"parallel.strategy={parallel.strategy}: it is no dcp_runner.train.parallel.strategy.Strategy"
        return
    try:
        strategy = kind(**parallel.options)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        yield f"parallel.options: {error}"
        return
    unused = [axis for axis, degree in parallel.degrees.items() if degree > 1 and axis not in strategy.axes]
    for axis in unused:
        uses = f"the axes {', '.join(strategy.axes)}" if strategy.axes else "no axis"
        yield (
            f"parallel.{axis}={getattr(parallel, axis)}: {kind.__name__} uses {uses}; "
            "take 1, or another topology (parallel=...)"
        )
    share = parallel.data_parallel_size * config.trainer.accumulate
    samples = 0 if config.data.batch_size % share else config.data.batch_size // share
    try:
        yield from strategy.validate(PlannedRun(parallel.degrees, samples, partial(_outline, config), parallel.plan))
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


def _metric_problems(config: RunConfig) -> Iterator[str]:
    """A metric that nothing records. The default is no problem: without an evaluation it only keeps nothing."""
    metric, evaluates = config.checkpoint.keep.metric, config.data.eval is not None and bool(config.trainer.eval_every)
    known = recorded_metrics(evaluates)
    may_add = evaluates and any(_adds_metrics(node) for node in config.callbacks.values())
    if metric not in known and metric != KeepConfig.metric and not may_add:
        near = did_you_mean(metric, known)
        yield (
            f"checkpoint.keep.metric={metric}: nothing records it{near}; this run has {', '.join(known)}, and a "
            "callback may add others in on_evaluate"
        )


def _adds_metrics(node: Mapping[str, Any]) -> bool:
    """Whether a callback has an `on_evaluate` of its own, as far as its class shows."""
    from dcp_runner.train.callbacks import Callback

    kind: Any = locate(str(node["_target_"]))
    return not inspect.isclass(kind) or getattr(kind, "on_evaluate", None) is not Callback.on_evaluate
