"""Data parallelism: every rank holds the complete model and sees its own part of the batch."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dcp_runner.train.parallel.mesh import RankMesh
from dcp_runner.train.parallel.split_plan import SplitPlan
from dcp_runner.train.parallel.strategy import Batch, Loss, Strategy


class DataParallel(Strategy):
    """torch's DistributedDataParallel; `options` are its keyword arguments, such as bucket_cap_mb."""

    axes = ("dp",)

    def __init__(self, **options: Any) -> None:
        self.options = options

    def wrap(self, model: nn.Module, mesh: RankMesh, split_plan: SplitPlan) -> nn.Module:
        model, replicas = model.to(mesh.device), mesh.along("dp")
        if replicas is None:
            return model
        device_ids = [mesh.device] if mesh.device.type == "cuda" else None
        has_data = mesh.device.type != "meta"  # without data there is nothing that ranks could synchronize
        return DistributedDataParallel(
            model, device_ids=device_ids, process_group=replicas.get_group(), init_sync=has_data, **self.options
        )

    def no_sync(self, model: nn.Module) -> AbstractContextManager[Any]:
        return model.no_sync() if isinstance(model, DistributedDataParallel) else super().no_sync(model)

    def warm_up(self, model: nn.Module, batch: Batch, loss: Loss) -> None:
        """A dry forward and backward: DDP rebuilds its buckets after the first backward, and from then on sums in
        another order.

        Without it, the first steps after a resume on 3 or more ranks differ from those of the uninterrupted run in the
        last bits.
        """
        self.dry_step(model, batch, loss)
