"""What is wrong with what a configuration builds, without building it: imports what its `_target_`s name."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from dcp_runner.checkpoint.config import KeepConfig
from dcp_runner.common.suggest import did_you_mean
from dcp_runner.config.schema import RunConfig
from dcp_runner.launch.preflight.target_checks import locate, node_problems, signature_problems
from dcp_runner.train.policies import recorded_metrics


def check_targets(config: RunConfig) -> list[str]:
    """Import paths that lead nowhere, and keys that their targets do not take. Imports the targets."""
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
    return found


def _loss_problems(node: Mapping[str, Any]) -> Iterator[str]:
    with suppress(LookupError):
        if inspect.isclass(locate(str(node.get("_target_")))):
            yield f"loss._target_={node['_target_']}: is a class; expected a function of (outputs, targets)"
            return
    yield from node_problems("loss", node, given=("outputs", "targets"))


def _closure_problems(node: Mapping[str, Any]) -> Iterator[str]:
    kind: Any = locate(str(node["_target_"]))
    if not (inspect.isclass(kind) and hasattr(kind, "step")):
        return
    closure = inspect.signature(kind.step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        yield (
            f"optim._target_={node['_target_']}: its step needs a closure that computes the loss several times, which "
            "the training loop does not support; choose another optimizer"
        )


def _metric_problems(config: RunConfig) -> Iterator[str]:
    """A metric that nothing records. The default is no problem: without an evaluation it only keeps nothing."""
    metric, evaluates = config.checkpoint.keep.metric, config.data.eval is not None and bool(config.trainer.eval_every)
    known = recorded_metrics(evaluates)
    may_add = evaluates and any(_adds_metrics(node) for node in config.callbacks.values())
    if metric not in known and metric != KeepConfig.metric and not may_add:
        near = did_you_mean(metric, known)
        yield (
            f"checkpoint.keep.metric={metric}: no such metric is recorded{near}; this run records {', '.join(known)}; "
            "a callback can add others in on_evaluate"
        )


def _adds_metrics(node: Mapping[str, Any]) -> bool:
    """Whether a callback has an `on_evaluate` of its own, as far as its class shows."""
    from dcp_runner.train.callbacks import Callback

    kind: Any = locate(str(node["_target_"]))
    return not inspect.isclass(kind) or getattr(kind, "on_evaluate", None) is not Callback.on_evaluate
