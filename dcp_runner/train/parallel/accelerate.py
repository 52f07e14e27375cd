"""Hugging Face Accelerate: an Accelerator prepares the model, the backward pass and the optimizer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import nn
from torch.optim import Optimizer

from dcp_runner.train.parallel.ddp import DataParallel
from dcp_runner.train.parallel.mesh import RankMesh
from dcp_runner.train.parallel.split_plan import SplitPlan

if TYPE_CHECKING:
    from accelerate import Accelerator


class Accelerate(DataParallel):
    """Data parallelism by Accelerate, which wraps the model in a DistributedDataParallel; `options` are keyword
    arguments of the latter.

    Data and learning rate schedule stay this project's own: an AcceleratedScheduler steps once per process, so its
    curve would depend on the number of ranks. For the same reason `trainer` defines precision and accumulation.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._accelerator: Accelerator | None = None

    def wrap(self, model: nn.Module, mesh: RankMesh, split_plan: SplitPlan) -> nn.Module:
        if mesh.device.type == "meta":
            return super().wrap(model, mesh, split_plan)
        self._accelerator = _accelerator(mesh, self.options)
        wrapped: nn.Module = self._accelerator.prepare_model(model)
        return wrapped

    def prepare_optimizer(self, optimizer: Optimizer) -> Optimizer:
        if self._accelerator is None:
            return optimizer
        prepared: Optimizer = self._accelerator.prepare_optimizer(optimizer, device_placement=False)
        return prepared

    def backward(self, value: torch.Tensor) -> None:
        assert self._accelerator is not None
        self._accelerator.backward(value)


def _accelerator(mesh: RankMesh, options: dict[str, Any]) -> Accelerator:
    """An Accelerator that joins the existing process group. It reads its rank from torchrun's variables and caches it
    for the process, in which another run may have used one before.
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from accelerate.state import AcceleratorState, GradientState
    from accelerate.utils import patch_environment

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    ranks = dist.get_world_size() if mesh.mesh is not None else 1
    variables = {"omp_num_threads": torch.get_num_threads()}  # else Accelerate sets the number of threads
    if mesh.mesh is not None:
        local = mesh.device.index or 0
        variables |= {"rank": dist.get_rank(), "world_size": ranks, "local_rank": local, "local_world_size": ranks}
    with patch_environment(**variables):
        return Accelerator(
            cpu=mesh.device.type == "cpu",
            mixed_precision="no",
            gradient_accumulation_steps=1,
            kwargs_handlers=[DistributedDataParallelKwargs(**options)],
        )
