"""The order in which the micro-batches of a pipeline run: torch's schedules, cached by the shape of the inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe, ScheduleInterleaved1F1B
from torch.distributed.pipelining.schedules import ScheduleLoopedBFS

from dcp_runner.train.parallel.pipeline_stages import StageModule
from dcp_runner.train.parallel.strategy import Loss

SCHEDULES: dict[str, Any] = {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B, "interleaved": ScheduleInterleaved1F1B}


class PipelineSchedules:
    """Runs the stages of all ranks of a group together. All of them call it, with the same number of micro-batches.

    A schedule has buffers for what it sends and receives, so each shape has its own. In its first run a schedule infers
    the shapes between the stages by an additional forward and backward of one micro-batch.
    """

    def __init__(self, name: str, group: dist.ProcessGroup) -> None:
        self._schedule_class, self._group = SCHEDULES[name], group
        self._cache: dict[Any, Any] = {}

    def train(
        self, model: StageModule, inputs: torch.Tensor, targets: torch.Tensor, microbatches: int, loss: Loss
    ) -> list[torch.Tensor]:
        """Forward and backward of all micro-batches; on the rank with the last stage the loss of each micro-batch,
        divided by their number. Gradients are added to those in the parameters.
        """

        def scaled_loss(outputs: Any, targets: Any) -> torch.Tensor:
            return loss(outputs, targets) / microbatches

        def make(stages: Any) -> Any:
            return self._schedule_class(stages, microbatches, loss_fn=scaled_loss, scale_grads=False)

        losses: list[torch.Tensor] = []
        schedule = self._schedule(("train", microbatches), model, inputs, make)
        schedule.step(inputs, target=targets, losses=losses, return_outputs=False)
        return losses

    def forward(self, model: StageModule, inputs: torch.Tensor, microbatches: int) -> Any:
        """The outputs of the complete model on the rank with the last stage, elsewhere None."""
        schedule_class: Any = ScheduleGPipe if len(model.wrapped) == 1 else ScheduleLoopedBFS

        def make(stages: Any) -> Any:
            return schedule_class(stages, microbatches)

        return self._schedule(("forward", microbatches), model, inputs, make).step(inputs)

    def _schedule(self, purpose: Any, model: StageModule, inputs: torch.Tensor, make: Callable[[Any], Any]) -> Any:
        key = (purpose, inputs.shape, inputs.dtype)
        if key not in self._cache:
            stages = [
                PipelineStage(wrapped, number, model.count, inputs.device, group=self._group)
                for number, wrapped in zip(model.numbers, model.wrapped, strict=True)
            ]
            self._cache[key] = make(stages if len(stages) > 1 else stages[0])
        return self._cache[key]
