"""Sharding: the weights are cut over ranks that see different samples, and gathered layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from dcp_runner.common import torch_private
from dcp_runner.train.parallel.mesh import RankMesh
from dcp_runner.train.parallel.split_plan import SplitPlan
from dcp_runner.train.parallel.strategy import PlannedRun, Strategy


class FullyShard(Strategy):
    """torch's `fully_shard` over fsdp, and replicated over dp where there is that too (hsdp).

    It needs no throw-away step: the sums over ranks are the same in every step.

    Args:
        reshard_after_forward: as in torch: free the gathered weights between forward and backward; null decides by
            itself.
    """

    axes: Sequence[str] = ("dp", "fsdp")

    def __init__(self, reshard_after_forward: bool | int | None = None) -> None:
        self.reshard_after_forward = reshard_after_forward
        self._data: DeviceMesh | None = None

    def validate(self, intended: PlannedRun) -> Iterator[str]:
        if intended.degrees["dp"] > 1 and intended.degrees["fsdp"] == 1:
            yield "parallel.fsdp: at least 2 beside parallel.dp, for nothing is sharded otherwise; or take parallel=ddp"

    def wrap(self, model: nn.Module, place: RankMesh, plan: SplitPlan) -> nn.Module:
        mesh = self._data = place.along("dp", "fsdp")
        if mesh is None:
            return model.to(place.device)

        def shard(module: nn.Module) -> Any:
            return fully_shard(module, mesh=mesh, reshard_after_forward=self.reshard_after_forward)

        return layer_by_layer(model, plan, shard).to(place.device)

    @contextmanager
    def no_sync(self, model: nn.Module) -> Iterator[None]:
        with without_sync(model):
            yield

    def sync_buffers(self, model: nn.Module) -> None:
        for mesh in (self._data,) if self._data is not None else ():
            for buffer in persistent_buffers(model):
                for group in mesh.get_all_groups():  # along each axis in turn, which reaches all from the first rank
                    dist.broadcast(buffer, group=group, group_src=0)

    def evaluated(self, model: nn.Module) -> None:
        """torch leaves what the outermost module has gathered, for a backward that does not come."""
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()


def persistent_buffers(model: nn.Module) -> list[torch.Tensor]:
    """Those that are part of the model's state, each once."""
    persistent = {
        id(buffer): buffer for module in model.modules() for buffer in torch_private.persistent_buffers(module)
    }
    return [*persistent.values()]


def layer_by_layer(model: nn.Module, plan: SplitPlan, apply: Callable[[nn.Module], Any]) -> nn.Module:
    """Apply a wrapper that changes modules in place to each layer of the plan, then to the whole model."""
    for layer in plan.layers_of(model):
        apply(layer)
    apply(model)
    return model


@contextmanager
def without_sync(model: nn.Module) -> Iterator[None]:
    """Gradients stay on the rank."""
    modules = [model] if isinstance(model, FSDPModule) else []
    for module in modules:
        module.set_requires_gradient_sync(False)
        module.set_is_last_backward(False)
    try:
        yield
    finally:
        for module in modules:
            module.set_requires_gradient_sync(True)
            module.set_is_last_backward(True)
