"""What a parallelism is to the training loop: how it wraps the model and how a step runs. One module a strategy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from dcp_runner.checkpoint.topology import Topology

Batch = Any
"""A pair (inputs, targets)."""
Loss = Callable[[Any, Any], torch.Tensor]
"""(outputs, targets) -> mean over the samples, a scalar tensor."""


class Strategy(ABC):
    """Subclasses say how the model is wrapped; most steps run as here.

    The constructor takes `parallel.options`.
    """

    data_axes: tuple[str, ...] = ("dp", "fsdp")
    """Mesh axes along which ranks see different samples."""

    @abstractmethod
    def wrap(self, model: nn.Module, topology: Topology, device: torch.device) -> nn.Module:
        """The model as this rank holds it, on the device. Called on all ranks."""

    def accumulating(self, model: nn.Module) -> AbstractContextManager[Any]:
        """Around the micro-batches of a step but the last: gradients stay on the rank."""
        return nullcontext()

    def step(self, model: nn.Module, batches: Sequence[Batch], loss: Loss) -> torch.Tensor:
        """Forward and backward of one optimizer step; gradients are left in the parameters.

        Gives the mean loss of this rank's samples, a detached scalar on the model's device.
        """
        total = torch.zeros((), device=next(model.parameters()).device)
        for number, batch in enumerate(batches, 1):
            last = number == len(batches)
            with nullcontext() if last else self.accumulating(model):
                value = self.evaluate(model, batch, loss) / len(batches)
                torch.autograd.backward(value)
            total += value.detach()
        return total

    def evaluate(self, model: nn.Module, batch: Batch, loss: Loss) -> torch.Tensor:
        """The loss of one batch: a scalar tensor."""
        inputs, targets = batch
        return loss(model(inputs), targets)

    def warm_up(self, model: nn.Module, batch: Batch, loss: Loss) -> None:
        """Whatever must have happened once before a state is loaded, so that a resumed run computes as an
        uninterrupted one.
        """
        return None
