"""Data parallelism: every rank holds the whole model and sees its own part of the batch."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dcp_runner.train.place import Place
from dcp_runner.train.plan import Plan
from dcp_runner.train.strategy import Batch, Loss, Strategy


class DataParallel(Strategy):
    """torch's DistributedDataParallel; `options` are its keyword arguments, as bucket_cap_mb."""

    axes = ("dp",)

    def __init__(self, **options: Any) -> None:
        self.options = options

    def wrap(self, model: nn.Module, place: Place, plan: Plan) -> nn.Module:
        model, mesh = model.to(place.device), place.along("dp")
        if mesh is None:
            return model
        devices = [place.device] if place.device.type == "cuda" else None
        real = place.device.type != "meta"  # a plan's objects have no data that ranks could compare
        return DistributedDataParallel(
            model, device_ids=devices, process_group=mesh.get_group(), init_sync=real, **self.options
        )

    def accumulating(self, model: nn.Module) -> AbstractContextManager[Any]:
        return model.no_sync() if isinstance(model, DistributedDataParallel) else super().accumulating(model)

    def warm_up(self, model: nn.Module, batch: Batch, loss: Loss) -> None:
        """One throw-away forward and backward: DDP rebuilds its buckets after the first, and from then on sums in
        another order.

        Without this, the first steps after a resume on 3 or more ranks differ from those of the uninterrupted run
        in the last bits.
        """
        self.throw_away(model, batch, loss)
