"""Data parallelism: every rank holds the whole model and sees its own part of the batch."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dcp_runner.checkpoint.topology import Topology
from dcp_runner.train.strategy import Batch, Loss, Strategy


class DataParallel(Strategy):
    """torch's DistributedDataParallel; `options` are its keyword arguments, as bucket_cap_mb."""

    def __init__(self, **options: Any) -> None:
        self.options = options

    def wrap(self, model: nn.Module, topology: Topology, device: torch.device) -> nn.Module:
        devices = [device] if device.type == "cuda" else None
        meta = device.type == "meta"  # a plan is made of objects without data, which cannot be compared between ranks
        return DistributedDataParallel(model.to(device), device_ids=devices, init_sync=not meta, **self.options)

    def accumulating(self, model: nn.Module) -> AbstractContextManager[Any]:
        assert isinstance(model, DistributedDataParallel)
        return model.no_sync()

    def warm_up(self, model: nn.Module, batch: Batch, loss: Loss) -> None:
        """One throw-away forward and backward: DDP rebuilds its buckets after the first, and from then on sums in
        another order.

        Without this, the first steps after a resume on 3 or more ranks differ from those of the uninterrupted run
        in the last bits.
        """
        buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
        self.step(model, [batch], loss)
        model.zero_grad(set_to_none=True)
        for buffer, before in buffers:
            buffer.copy_(before)
