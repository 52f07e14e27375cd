"""Sharded data parallelism: weights are sharded over ranks that see different samples, and gathered layer by layer."""

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
    """torch's `fully_shard` over fsdp, replicated over dp if that has a degree too (hybrid sharding).

    It needs no dry step: the order of sums over ranks is the same in every step.

    Args:
        reshard_after_forward: as in torch: whether the gathered weights are freed between forward and backward; null:
            torch decides.
    """

    axes: Sequence[str] = ("dp", "fsdp")

    def __init__(self, reshard_after_forward: bool | int | None = None) -> None:
        self.reshard_after_forward = reshard_after_forward
        self._data_mesh: DeviceMesh | None = None
        """The ranks that see different samples."""

    def validate(self, planned: PlannedRun) -> Iterator[str]:
        dp, fsdp = planned.degrees["dp"], planned.degrees["fsdp"]
        if dp > 1 and fsdp == 1:
            yield f"parallel.fsdp=1 with parallel.dp={dp}: nothing is sharded; use a larger fsdp, or parallel=ddp"

    def wrap(self, model: nn.Module, mesh: RankMesh, split_plan: SplitPlan) -> nn.Module:
        data_mesh = self._data_mesh = mesh.along("dp", "fsdp")
        if data_mesh is None:
            return model.to(mesh.device)

        def shard(module: nn.Module) -> Any:
            return fully_shard(module, mesh=data_mesh, reshard_after_forward=self.reshard_after_forward)

        return layer_by_layer(model, split_plan, shard).to(mesh.device)

    @contextmanager
    def no_sync(self, model: nn.Module) -> Iterator[None]:
        with without_sync(model):
            yield

    def sync_buffers(self, model: nn.Module) -> None:
        groups = self._data_mesh.get_all_groups() if self._data_mesh is not None else ()
        for buffer in persistent_buffers(model):
            for group in groups:  # along one axis after the other, which reaches all ranks from the first
                dist.broadcast(buffer, group=group, group_src=0)

    def after_evaluation(self, model: nn.Module) -> None:
        """torch keeps the gathered weights of the outermost module for a backward, which does not come here."""
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()


def persistent_buffers(model: nn.Module) -> list[torch.Tensor]:
    """The buffers that are part of the model's state, each once."""
    persistent = {
        id(buffer): buffer for module in model.modules() for buffer in torch_private.persistent_buffers(module)
    }
    return [*persistent.values()]


def layer_by_layer(model: nn.Module, split_plan: SplitPlan, apply: Callable[[nn.Module], Any]) -> nn.Module:
    """Apply a wrapper that changes modules in place to each layer of the split plan, then to the complete model."""
    for layer in split_plan.layers_of(model):
        apply(layer)
    apply(model)
    return model


@contextmanager
def without_sync(model: nn.Module) -> Iterator[None]:
    """Gradients are not reduced over ranks."""
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
