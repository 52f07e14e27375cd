"""The arithmetic of forward and backward."""

from __future__ import annotations

import torch

from dcp_runner.train.config import Precision


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Around every use of the model: steps, evaluations and throw-away steps alike.

    A weight is cast where it is used. Autocast's own cache would hand the cast of one micro-batch to the next, whose
    gradients then pass through the older graph, and so reach the weight after a sharded layer has reduced what it
    had; and it would hold a whole gathered model during an evaluation.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=precision is Precision.bf16, cache_enabled=False)
