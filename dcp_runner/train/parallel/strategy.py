"""The interface between a kind of parallelism and the training loop. Each strategy has a module of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from dcp_runner.train.parallel.config import DATA_AXES, SplitPlanConfig
from dcp_runner.train.parallel.gradients import total_norm
from dcp_runner.train.parallel.mesh import RankMesh
from dcp_runner.train.parallel.split_plan import SplitPlan, resolve_split_plan

Batch = Any
"""A pair (inputs, targets)."""
Loss = Callable[[Any, Any], torch.Tensor]
"""(outputs, targets) -> mean over the samples, a scalar tensor."""


@dataclass(frozen=True)
class PlannedRun:
    """A run before any rank is started, for a strategy to validate."""

    degrees: Mapping[str, int]
    """The degree of every mesh axis."""
    samples: int
    """Samples of one of trainer.accumulate micro-batches on a rank; 0: the batch cannot be divided evenly, which is
    reported elsewhere."""
    build: Callable[[], nn.Module]
    """Builds the model on the meta device."""
    config: SplitPlanConfig

    @cached_property
    def model(self) -> nn.Module:
        """The model on the meta device, built once."""
        return self.build()

    @cached_property
    def split_plan(self) -> SplitPlan:
        return resolve_split_plan(self.model, self.config)


class Strategy(ABC):
    """How a kind of parallelism wraps the model and runs a step. Subclasses define `wrap`; the default step suits most.

    The constructor takes `parallel.options` as keyword arguments and starts nothing. Parameters keep the names that
    they have in the model given to `wrap`, except for the prefix of a DistributedDataParallel.
    """

    axes: Sequence[str] = ()
    """Mesh axes that the strategy supports; a degree above 1 along any other axis is refused."""
    data_axes: tuple[str, ...] = DATA_AXES
    """Mesh axes along which ranks see different samples."""

    def validate(self, planned: PlannedRun) -> Iterator[str]:
        """The problems of a run under this strategy, besides unsupported axes. Called before any rank is started."""
        return iter(())

    @abstractmethod
    def wrap(self, model: nn.Module, mesh: RankMesh, split_plan: SplitPlan) -> nn.Module:
        """The model as this rank holds it, on its device. Called on all ranks, with equal weights on the CPU or without
        data on the meta device.
        """

    def prepare_optimizer(self, optimizer: Optimizer) -> Optimizer:
        """The optimizer that training steps; it may wrap the given one, to which the scheduler stays attached."""
        return optimizer

    def no_sync(self, model: nn.Module) -> AbstractContextManager[Any]:
        """A context for all micro-batches of a step but the last, in which gradients are not reduced over ranks."""
        return nullcontext()

    def step(self, model: nn.Module, batches: Sequence[Batch], loss: Loss) -> torch.Tensor | None:
        """Forward and backward of one optimizer step. Leaves the gradients of the mean over the global batch in the
        parameters.

        Returns the mean loss of this rank's samples, a detached scalar; None on a rank that computes no loss.
        """
        total = torch.zeros((), device=next(model.parameters()).device)
        for number, batch in enumerate(batches, 1):
            last = number == len(batches)
            inputs, targets = batch
            with nullcontext() if last else self.no_sync(model):
                value = loss(model(inputs), targets) / len(batches)
                self.backward(value)
            total += value.detach()
        return total

    def backward(self, value: torch.Tensor) -> None:
        """Add the gradients of a micro-batch's loss to those in the parameters."""
        torch.autograd.backward(value)

    def evaluate(self, model: nn.Module, batch: Batch, loss: Loss) -> torch.Tensor | None:
        """The loss of one batch, a scalar tensor; None on a rank that computes no loss. All ranks call it equally
        often; the batches of different data-parallel ranks may differ in size.
        """
        inputs, targets = batch
        return loss(model(inputs), targets)

    def sync_buffers(self, model: nn.Module) -> None:
        """After the forward passes of a step: broadcast from the first rank the buffers that each rank has updated from
        its own samples, such as BatchNorm's statistics. DistributedDataParallel does so by itself.
        """
        return None

    def after_evaluation(self, model: nn.Module) -> None:
        """After the last batch of an evaluation: drop copies of weights, which may change before the next step."""
        return None

    def grad_norm(self, model: nn.Module) -> torch.Tensor:
        """The 2-norm of the gradients of the complete model, a plain scalar, bit-equal on all ranks."""
        return total_norm(model.parameters())

    def warm_up(self, model: nn.Module, batch: Batch, loss: Loss) -> None:
        """Do whatever must have happened once before a state is loaded, so that a resumed run is bit-equal to an
        uninterrupted one.
        """
        return None

    def dry_step(self, model: nn.Module, batch: Batch, loss: Loss) -> None:
        """A forward and backward that leaves no trace in parameters, gradients and buffers."""
        buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
        self.step(model, [batch], loss)
        model.zero_grad(set_to_none=True)
        for buffer, before in buffers:
            buffer.copy_(before)
