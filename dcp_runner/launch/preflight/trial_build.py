"""Builds the model and optimizer at most once, without data, in a child process, to answer questions that need real
objects and to make the plan.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate

from dcp_runner.checkpoint.sharing import AUTO
from dcp_runner.common.errors import ConfigError
from dcp_runner.common.suggest import did_you_mean
from dcp_runner.config.schema import RunConfig
from dcp_runner.launch.preflight.child_process import in_child_process
from dcp_runner.launch.preflight.config_checks import may_be_option

if TYPE_CHECKING:
    from torch import nn

_WHAT = "building model, optimizer and plan without data"


@dataclass(frozen=True)
class TrialBuild:
    """What a trial build has shown."""

    problems: list[str]
    plan: str | None = None
    """The table of the plan; None: not asked for (`dry_run`), or there are problems."""


def trial_build(config: RunConfig) -> TrialBuild:
    """Ask the strategy whether the run fits it, the optimizer for its options, and the plan for declared sharings.

    In a configuration whose targets are right. Builds what the answers need, at most one model, in a child process.

    Raises:
        ConfigError: that process ended without an answer.
    """
    if config.parallel.world_size > 1:
        from dcp_runner.common.torch_private import import_dynamo

        import_dynamo()  # which takes long; the child and all ranks need it
    return in_child_process(_WHAT, partial(_trial, config))


def show_plan(config: RunConfig) -> str:
    """The table of the plan of a run that has not been started.

    Raises:
        ConfigError: there is none, for these reasons.
    """
    built = trial_build(replace(config, dry_run=True))
    if built.plan is None:
        raise ConfigError(*built.problems)
    return built.plan


def _trial(config: RunConfig) -> TrialBuild:
    model = cache(partial(meta_model, config))
    problems = [*_no_options(config, model), *_strategy_problems(config, model)]
    declared = any(text != AUTO for text in config.sharing.values())
    if problems or not (declared or config.dry_run):
        return TrialBuild(problems)
    try:
        plan = _plan(config, model())
    except InstantiationException as error:
        return TrialBuild([f"building the run fails: {error.__cause__ or error}"])
    except ValueError as error:
        return TrialBuild([f"sharing: {error}"])
    return TrialBuild([], plan if config.dry_run else None)


def meta_model(config: RunConfig) -> nn.Module:
    """The model on the meta device."""
    import torch

    from dcp_runner.run.build import build_model

    return build_model(config, torch.device("meta"))


def _plan(config: RunConfig, model: nn.Module) -> str:
    from dcp_runner.run.plan_table import plan_table, planned_components, tensor_sizes

    with planned_components(config, model) as (bound, topology):
        return plan_table(bound, tensor_sizes(bound), topology)


def _no_options(config: RunConfig, model: Callable[[], nn.Module]) -> Iterator[str]:
    """Keys of `optim` that its groups do not have as options."""
    keys = [key for key in config.resume_override if may_be_option(key)]
    if not keys:
        return
    try:
        trained = [parameter for parameter in model().parameters() if parameter.requires_grad]
        groups = instantiate(config.optim, trained, _convert_="all").param_groups
    except InstantiationException as error:
        yield f"optim: building it fails: {error.__cause__ or error}"
        return
    options = sorted({key for group in groups for key in group} - {"params", "param_names"})
    for key in keys:
        if (option := key.removeprefix("optim.")) not in options:
            near = did_you_mean(option, options, below="optim.")
            yield f"resume_override: {key} is no option of the optimizer's groups{near or f'; they are {options}'}"


def _strategy_problems(config: RunConfig, model: Callable[[], nn.Module]) -> Iterator[str]:
    from dcp_runner.train.parallel.strategy import PlannedRun, Strategy

    parallel = config.parallel
    kind: Any = get_object(parallel.strategy)
    if not (inspect.isclass(kind) and issubclass(kind, Strategy)):
        yield f"parallel.strategy={parallel.strategy}: not a dcp_runner.train.parallel.strategy.Strategy"
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
            "set 1, or choose another topology (parallel=...)"
        )
    share = parallel.data_parallel_size * config.trainer.accumulate
    samples = 0 if config.data.batch_size % share else config.data.batch_size // share
    try:
        yield from strategy.validate(PlannedRun(parallel.degrees, samples, model, parallel.plan))
    except InstantiationException as error:
        yield f"model: building it fails: {error.__cause__ or error}"
