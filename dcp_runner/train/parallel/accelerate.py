"""Hugging Face Accelerate: the model, the backward pass and the optimizer are prepared by an Accelerator."""

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
    """Data parallelism by Accelerate, which wraps the model in a DistributedDataParallel; `options` are its keyword
    arguments.

    Data and learning rate stay this project's own: an AcceleratedScheduler steps once a process, so that its curve
    would depend on the number of ranks. For the same reason precision and accumulation are those of `trainer`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._accelerator: Accelerator | None = None

    def wrap(self, model: nn.Module, place: RankMesh, plan: SplitPlan) -> nn.Module:
        if place.device.type == "meta":
            return super().wrap(model, place, plan)
        self._accelerator = _accelerator(place, self.options)
        wrapped: nn.Module = self._accelerator.prepare_model(model)
        return wrapped

    def prepare(self, optimizer: Optimizer) -> Optimizer:
        if self._accelerator is None:
            return optimizer
        prepared: Optimizer = self._accelerator.prepare_optimizer(optimizer, device_placement=False)
        return prepared

    def backward(self, value: torch.Tensor) -> None:
        assert self._accelerator is not None
        self._accelerator.backward(value)


def _accelerator(place: RankMesh, options: dict[str, Any]) -> Accelerator:
    """One that joins the process group that is there. It takes its place from torchrun's variables, and keeps it for
    the process, where another run may have been before.
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from accelerate.state import AcceleratorState, GradientState
    from accelerate.utils import patch_environment

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    ranks = dist.get_world_size() if place.mesh is not None else 1
    told = {"omp_num_threads": torch.get_num_threads()}  # else Accelerate sets the number of threads
    if place.mesh is not None:
        local = place.device.index or 0
        told |= {"rank": dist.get_rank(), "world_size": ranks, "local_rank": local, "local_world_size": ranks}
    with patch_environment(**told):
        return Accelerator(
            cpu=place.device.type == "cpu",
            mixed_precision="no",
            gradient_accumulation_steps=1,
            kwargs_handlers=[DistributedDataParallelKwargs(**options)],
        )
