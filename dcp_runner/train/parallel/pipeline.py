"""Pipeline parallelism: each rank holds some of the layers, and micro-batches flow through the ranks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pkgutil import resolve_name
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from dcp_runner.train.parallel.mesh import RankMesh
from dcp_runner.train.parallel.pipeline_schedules import SCHEDULES, PipelineSchedules
from dcp_runner.train.parallel.pipeline_split import build_stage, validate_split
from dcp_runner.train.parallel.pipeline_stages import StageModule
from dcp_runner.train.parallel.split_plan import SplitPlan
from dcp_runner.train.parallel.strategy import Batch, Loss, PlannedRun, Strategy


class Pipeline(Strategy):
    """The model split into stages along pp, by its split plan; another strategy wraps each stage.

    All micro-batches of an optimizer step, including those of trainer.accumulate, go through one run of the schedule,
    so the pipeline fills once and gradients are reduced once. Inputs, targets and what one stage passes to the next
    are tensors with the samples along the first dimension.

    Args:
        schedule: gpipe, 1f1b or interleaved.
        microbatches: micro-batches that each batch of a rank is split into; null: one for each rank along pp.
        stages_per_rank: null: 2 if interleaved, else 1.
        stage: import path of the strategy that wraps each stage.
        stage_options: options of that strategy.
    """

    def __init__(
        self,
        schedule: str = "1f1b",
        microbatches: int | None = None,
        stages_per_rank: int | None = None,
        stage: str = "dcp_runner.train.parallel.single.Single",
        stage_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.schedule = schedule
        self.microbatches = microbatches
        self.stages_per_rank = stages_per_rank or (2 if schedule == "interleaved" else 1)
        self.inner: Strategy = resolve_name(stage)(**stage_options or {})
        self.axes = ("pp", *self.inner.axes)
        self._padded_size = 0
        """Samples of every batch of an evaluation, once padded."""

    def validate(self, planned: PlannedRun) -> Iterator[str]:
        yield from self.inner.validate(planned)
        degree, where = planned.degrees["pp"], "parallel.options"
        count = self.microbatches or degree
        if self.schedule not in SCHEDULES:
            yield f"{where}.schedule={self.schedule}: must be one of {', '.join(SCHEDULES)}"
        if self.schedule != "interleaved" and self.stages_per_rank > 1:
            yield f"{where}.stages_per_rank={self.stages_per_rank}: more than 1 needs schedule=interleaved"
        if count < degree or (self.schedule == "interleaved" and count % degree):
            need = "a multiple of" if self.schedule == "interleaved" else "at least"
            yield f"{where}.microbatches={count}: must be {need} parallel.pp={degree}"
        if planned.samples % count:
            yield (
                f"{where}.microbatches={count}: must divide the {planned.samples} samples of a rank "
                "(data.batch_size / dp / fsdp / trainer.accumulate)"
            )
        if degree > 1:
            yield from validate_split(planned.model, planned.split_plan, degree * self.stages_per_rank)

    def wrap(self, model: nn.Module, mesh: RankMesh, split_plan: SplitPlan) -> nn.Module:
        pp_mesh = mesh.along("pp")
        if pp_mesh is None:
            return self.inner.wrap(model, mesh, split_plan)
        self._group, self._microbatches = pp_mesh.get_group(), self.microbatches or pp_mesh.size()
        self._schedules = PipelineSchedules(self.schedule, self._group)
        count, names = pp_mesh.size() * self.stages_per_rank, [*model.state_dict()]
        numbers = range(pp_mesh.get_local_rank(), count, pp_mesh.size())
        stages = [build_stage(model, split_plan, number, count) for number in numbers]
        wrapped = [self.inner.wrap(stage, mesh, split_plan) for stage in stages]
        return StageModule(stages, wrapped, numbers, count, names)

    def step(self, model: nn.Module, batches: Sequence[Batch], loss: Loss) -> torch.Tensor | None:
        if not isinstance(model, StageModule):
            return self.inner.step(model, batches, loss)
        inputs, targets = (torch.cat([batch[part] for batch in batches]) for part in (0, 1))
        with ExitStack() as stack:
            for wrapped in model.wrapped:  # the schedule reduces the gradients; its first probe of the shapes must not
                stack.enter_context(self.inner.no_sync(wrapped))
            losses = self._schedules.train(model, inputs, targets, len(batches) * self._microbatches, loss)
        return torch.stack(losses).sum().detach() if losses else None

    def evaluate(self, model: nn.Module, batch: Batch, loss: Loss) -> torch.Tensor | None:
        if not isinstance(model, StageModule):
            return self.inner.evaluate(model, batch, loss)
        inputs, targets = batch
        # A short batch is padded to the size of the first, so that all ranks run equally many forward passes.
        self._padded_size = max(self._padded_size, -(-len(inputs) // self._microbatches) * self._microbatches)
        padded = torch.cat([inputs, inputs[:1].expand(self._padded_size - len(inputs), *inputs.shape[1:])])
        outputs = self._schedules.forward(model, padded, self._microbatches)
        return loss(outputs[: len(inputs)], targets) if model.count - 1 in model.numbers else None

    def sync_buffers(self, model: nn.Module) -> None:
        for wrapped in model.wrapped if isinstance(model, StageModule) else (model,):
            self.inner.sync_buffers(wrapped)

    def after_evaluation(self, model: nn.Module) -> None:
        for wrapped in model.wrapped if isinstance(model, StageModule) else (model,):
            self.inner.after_evaluation(wrapped)

    def grad_norm(self, model: nn.Module) -> torch.Tensor:
        norm = self.inner.grad_norm(model)
        if isinstance(model, StageModule):
            squared = norm.square()
            dist.all_reduce(squared, group=self._group)
            norm = squared.sqrt()
        return norm

    def warm_up(self, model: nn.Module, batch: Batch, loss: Loss) -> None:
        """A dry step, which stages in a DistributedDataParallel need."""
        self.dry_step(model, batch, loss)
