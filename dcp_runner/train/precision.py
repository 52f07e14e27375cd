"""Sets up autocast, the arithmetic of the forward and backward pass."""

from __future__ import annotations

import torch

from dcp_runner.train.config import Precision


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """A context for every use of the model: steps, dry steps and evaluations.

    A weight is cast each time it is used. Autocast's own cache would share one cast among the micro-batches, and then
    the gradients of a later micro-batch flow through the graph of the first and reach the weight after a sharded layer
    has already reduced its gradient. It would also hold a complete gathered model during an evaluation.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=precision is Precision.bf16, cache_enabled=False)
