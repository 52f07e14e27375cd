"""What a rank trains: the model, its optimizer and scheduler, and the data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from dcp_runner.checkpoint.topology import Topology
from dcp_runner.common.torch_private import tree_map_only
from dcp_runner.data.feed import Feed
from dcp_runner.train.config import Precision
from dcp_runner.train.parallel.strategy import Batch, Loss, Strategy
from dcp_runner.train.precision import autocast


@dataclass(frozen=True)
class Parts:
    """The objects that a run trains, as one rank holds them."""

    topology: Topology
    device: torch.device
    strategy: Strategy
    model: nn.Module
    """As wrapped by the strategy."""
    optimizer: Optimizer
    scheduler: LambdaLR
    loss: Loss

    def to_device(self, batch: Any) -> Any:
        """The batch with all of its tensors on this rank's device."""
        return tree_map_only(torch.Tensor, lambda tensor: tensor.to(self.device, non_blocking=True), batch)

    def warm_up(self, batch: Batch, precision: Precision) -> None:
        """The strategy's dry step, where it needs one; `batch` is of the usual shape."""
        with autocast(self.device, precision):
            self.strategy.warm_up(self.model, self.to_device(batch), self.loss)


@dataclass(frozen=True)
class TrainingData:
    """The data of one rank."""

    feed: Feed
    evaluation: Callable[[], Iterator[tuple[Batch, int]]] | None
    """Starts a pass over this rank's part of the evaluation set. It yields batches, each with the number of its samples
    that count, and equally many on every rank. None: the run never evaluates."""
