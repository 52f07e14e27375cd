"""Live objects as Statefuls: modules and optimizers wrapped, all others as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from dcp_runner.checkpoint.component import SelfDescribing, StateComponent
from dcp_runner.checkpoint.modules import PLAIN, ModelState
from dcp_runner.checkpoint.optimizers import OptimizerState
from dcp_runner.checkpoint.sharing import Traits
from dcp_runner.checkpoint.topology import Topology


def adapt(components: Sequence[StateComponent], topology: Topology) -> list[Any]:
    """The Stateful of each component."""
    models = [ModelState(c.stateful, c.key, topology) for c in components if isinstance(c.stateful, nn.Module)]
    by_module = {id(model.wrapper): model for model in models}
    return [_adapt(component.stateful, models, by_module) for component in components]


def _adapt(stateful: Any, models: Sequence[ModelState], by_module: dict[int, ModelState]) -> Any:
    if isinstance(stateful, nn.Module):
        return by_module[id(stateful)]
    if isinstance(stateful, torch.optim.Optimizer):
        return OptimizerState(stateful, models)
    return stateful


def traits_of(stateful: Any) -> Traits:
    """What an adapted Stateful shows of how it is shared."""
    return stateful.sharing_traits() if isinstance(stateful, SelfDescribing) else PLAIN
