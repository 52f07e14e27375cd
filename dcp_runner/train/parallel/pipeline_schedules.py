"""In which order the micro-batches of a pipeline run: torch's schedules, kept for every shape of inputs."""

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
    """Runs the stages of all ranks of a group together (all of them call it, with as many pieces).

    A schedule has buffers for what it sends and receives, so there is one for each shape. Its first run looks at the
    shapes between the stages by an additional forward and backward of one piece.
    """

    def __init__(self, name: str, group: dist.ProcessGroup) -> None:
        self._kind, self._group = SCHEDULES[name], group
        self._made: dict[Any, Any] = {}

    def train(
        self, model: StageModule, inputs: torch.Tensor, targets: torch.Tensor, pieces: int, loss: Loss
    ) -> list[torch.Tensor]:
        """Forward and backward in so many pieces; the loss of each, divided by their number, where the last stage is.
        Gradients are added to those in the parameters.
        """

        def share(outputs: Any, targets: Any) -> torch.Tensor:
            return loss(outputs, targets) / pieces

        def make(stages: Any) -> Any:
            return self._kind(stages, pieces, loss_fn=share, scale_grads=False)

        losses: list[torch.Tensor] = []
        schedule = self._schedule(("train", pieces), model, inputs, make)
        schedule.step(inputs, target=targets, losses=losses, return_outputs=False)
        return losses

    def forward(self, model: StageModule, inputs: torch.Tensor, pieces: int) -> Any:
        """The outputs of the whole model where the last stage is, elsewhere None."""
        kind: Any = ScheduleGPipe if len(model.stages) == 1 else ScheduleLoopedBFS
        return self._schedule(("forward", pieces), model, inputs, lambda stages: kind(stages, pieces)).step(inputs)

    def _schedule(self, use: Any, model: StageModule, inputs: torch.Tensor, make: Callable[[Any], Any]) -> Any:
        key = (use, inputs.shape, inputs.dtype)
        if key not in self._made:
            stages = [
                PipelineStage(wrapped, number, model.count, inputs.device, group=self._group)
                for number, wrapped in zip(model.numbers, model.stages, strict=True)
            ]
            self._made[key] = make(stages if len(stages) > 1 else stages[0])
        return self._made[key]
