"""What a parallelism is to the training loop: how it wraps the model and how a step runs. One module a strategy."""

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

from dcp_runner.train.parallel.config import PlanConfig
from dcp_runner.train.parallel.gradients import total_norm
from dcp_runner.train.parallel.mesh import RankMesh
from dcp_runner.train.parallel.split_plan import SplitPlan, split_plan

Batch = Any
"""A pair (inputs, targets)."""
Loss = Callable[[Any, Any], torch.Tensor]
"""(outputs, targets) -> mean over the samples, a scalar tensor."""


@dataclass(frozen=True)
class PlannedRun:
    """A run before any rank is started, for a strategy to look at."""

    degrees: Mapping[str, int]
    """Of every mesh axis."""
    samples: int
    """Of one of trainer.accumulate micro-batches on a rank; 0: they cannot be shared out evenly, which is told."""
    build: Callable[[], nn.Module]
    config: PlanConfig

    @cached_property
    def model(self) -> nn.Module:
        """On the meta device."""
        return self.build()

    @cached_property
    def plan(self) -> SplitPlan:
        return split_plan(self.model, self.config)


class Strategy(ABC):
    """Subclasses say how the model is wrapped; most steps run as here.

    The constructor takes `parallel.options`, and starts nothing. Parameters keep the names that they have in the model
    that is given to `wrap`, but for the prefix of a DistributedDataParallel.
    """

    axes: Sequence[str] = ()
    """Mesh axes that it can use; a degree above 1 on another one is refused."""
    data_axes: tuple[str, ...] = ("dp", "fsdp")
    """Mesh axes along which ranks see different samples."""

    def validate(self, intended: PlannedRun) -> Iterator[str]:
        """What is wrong with a run under this strategy, besides axes that it cannot use. Called before ranks start."""
        return iter(())

    @abstractmethod
    def wrap(self, model: nn.Module, place: RankMesh, plan: SplitPlan) -> nn.Module:
        """The model as this rank holds it, on its device. Called on all ranks, with the same weights on the CPU, or
        with none on the meta device.
        """

    def prepare(self, optimizer: Optimizer) -> Optimizer:
        """The optimizer as training steps it. The schedule is attached to the one that is given."""
        return optimizer

    def no_sync(self, model: nn.Module) -> AbstractContextManager[Any]:
        """Around the micro-batches of a step but the last: gradients stay on the rank."""
        return nullcontext()

    def step(self, model: nn.Module, batches: Sequence[Batch], loss: Loss) -> torch.Tensor | None:
        """Forward and backward of one optimizer step; gradients are left in the parameters, those of the mean over
        the global batch.

        Gives the mean loss of this rank's samples, a detached scalar; None on a rank that computes no loss.
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
        """The loss of one batch, a scalar tensor; None on a rank that computes no loss. All ranks call it as often;
        the batches of different data-parallel ranks may differ in size.
        """
        inputs, targets = batch
        return loss(model(inputs), targets)

    def sync_buffers(self, model: nn.Module) -> None:
        """After the forward passes of a step: buffers that each rank has updated from its own samples, such as
        BatchNorm's statistics, become those of the first rank. DistributedDataParallel does so by itself.
        """
        return None

    def evaluated(self, model: nn.Module) -> None:
        """After the last batch of an evaluation: keep no copies of weights, which may change before the next step."""
        return None

    def grad_norm(self, model: nn.Module) -> torch.Tensor:
        """The 2-norm of the gradients of the whole model, a plain scalar that is equal on all ranks, bit for bit."""
        return total_norm(model.parameters())

    def warm_up(self, model: nn.Module, batch: Batch, loss: Loss) -> None:
        """Whatever must have happened once before a state is loaded, so that a resumed run computes as an
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
