"""Data parallelism: every rank holds the whole model and sees its own part of the batch."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dcp_runner.train.parallel.mesh import RankMesh
from dcp_runner.train.parallel.split_plan import SplitPlan
from dcp_runner.train.parallel.strategy import Batch, Loss, Strategy


class DataParallel(Strategy):
    """torch's DistributedDataParallel; `options` are its keyword arguments, as bucket_cap_mb."""

    axes = ("dp",)

    def __init__(self, **options: Any) -> None:
        self.options = options

    def wrap(self, model: nn.Module, place: RankMesh, plan: SplitPlan) -> nn.Module:
        model, mesh = model.to(place.device), place.along("dp")
        if mesh is None:
            return model
        devices = [place.device] if place.device.type == "cuda" else None
        real = place.device.type != "meta"  # a plan's objects have no data that ranks could compare
        return DistributedDataParallel(
            model, device_ids=devices, process_group=mesh.get_group(), init_sync=real, **self.options
        )

    def no_sync(self, model: nn.Module) -> AbstractContextManager[Any]:
        return model.no_sync() if isinstance(model, DistributedDataParallel) else super().no_sync(model)

    def warm_up(self, model: nn.Module, batch: Batch, loss: Loss) -> None:
        """One throw-away forward and backward: DDP rebuilds its buckets after the first, and from then on sums in
        another order.

        Without this, the first steps after a resume on 3 or more ranks differ from those of the uninterrupted run
        in the last bits.
        """
        self.dry_step(model, batch, loss)
