"""One rank."""

from __future__ import annotations

import torch
from torch import nn

from dcp_runner.checkpoint.topology import Topology
from dcp_runner.train.strategy import Strategy


class Single(Strategy):
    """The model as it is."""

    def wrap(self, model: nn.Module, topology: Topology, device: torch.device) -> nn.Module:
        return model.to(device)
