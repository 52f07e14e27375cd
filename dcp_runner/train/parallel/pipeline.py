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
from dcp_runner.train.parallel.pipeline_split import split_problems, stage_of
from dcp_runner.train.parallel.pipeline_stages import StageModule
from dcp_runner.train.parallel.split_plan import SplitPlan
from dcp_runner.train.parallel.strategy import Batch, Loss, PlannedRun, Strategy


class Pipeline(Strategy):
    """The model cut into stages along pp, by its plan; within a stage another strategy goes on.

    All micro-batches of an optimizer step go through one run of the schedule, those of trainer.accumulate too, so that
    the pipeline is filled once and gradients are reduced once. Inputs, targets and what one stage gives to the next are
    tensors with the samples along the first dimension.

    Args:
        schedule: gpipe, 1f1b or interleaved.
        microbatches: pieces that each batch of a rank is cut into; null: as many as there are ranks along pp.
        stages_per_rank: null: 2 if interleaved, else 1.
        stage: import path of the strategy within a stage.
        stage_options: its options.
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
        self._evaluated = 0

    def validate(self, intended: PlannedRun) -> Iterator[str]:
        yield from self.inner.validate(intended)
        degree, where = intended.degrees["pp"], "parallel.options"
        pieces = self.microbatches or degree
        if self.schedule not in SCHEDULES:
            yield f"{where}.schedule={self.schedule}: one of {', '.join(SCHEDULES)}"
        if self.schedule != "interleaved" and self.stages_per_rank > 1:
            yield f"{where}.stages_per_rank={self.stages_per_rank}: only schedule=interleaved has several stages a rank"
        if pieces < degree or (self.schedule == "interleaved" and pieces % degree):
            need = "a multiple of" if self.schedule == "interleaved" else "at least"
            yield f"{where}.microbatches={pieces}: {need} parallel.pp={degree}"
        if intended.samples % pieces:
            yield (
                f"{where}.microbatches={pieces}: it must divide the {intended.samples} samples of a rank "
                "(data.batch_size / dp / fsdp / trainer.accumulate)"
            )
        if degree > 1:
            yield from split_problems(intended.model, intended.plan, degree * self.stages_per_rank)

    def wrap(self, model: nn.Module, place: RankMesh, plan: SplitPlan) -> nn.Module:
        mesh = place.along("pp")
        if mesh is None:
            return self.inner.wrap(model, place, plan)
        self._group, self._pieces = mesh.get_group(), self.microbatches or mesh.size()
        self._schedules = PipelineSchedules(self.schedule, self._group)
        count, names = mesh.size() * self.stages_per_rank, [*model.state_dict()]
        numbers = range(mesh.get_local_rank(), count, mesh.size())
        parts = [stage_of(model, plan, number, count) for number in numbers]
        return StageModule(parts, [self.inner.wrap(part, place, plan) for part in parts], numbers, count, names)

    def step(self, model: nn.Module, batches: Sequence[Batch], loss: Loss) -> torch.Tensor | None:
        if not isinstance(model, StageModule):
            return self.inner.step(model, batches, loss)
        inputs, targets = (torch.cat([batch[part] for batch in batches]) for part in (0, 1))
        with ExitStack() as held:
            for wrapped in model.stages:  # the schedule lets the gradients out; its first look at the shapes must not
                held.enter_context(self.inner.no_sync(wrapped))
            losses = self._schedules.train(model, inputs, targets, len(batches) * self._pieces, loss)
        return torch.stack(losses).sum().detach() if losses else None

    def evaluate(self, model: nn.Module, batch: Batch, loss: Loss) -> torch.Tensor | None:
        if not isinstance(model, StageModule):
            return self.inner.evaluate(model, batch, loss)
        inputs, targets = batch
        # A short batch is filled up to the size of the first, so that all ranks run equally many forward passes.
        self._evaluated = max(self._evaluated, -(-len(inputs) // self._pieces) * self._pieces)
        filled = torch.cat([inputs, inputs[:1].expand(self._evaluated - len(inputs), *inputs.shape[1:])])
        outputs = self._schedules.forward(model, filled, self._pieces)
        return loss(outputs[: len(inputs)], targets) if model.count - 1 in model.numbers else None

    def sync_buffers(self, model: nn.Module) -> None:
        for wrapped in model.stages if isinstance(model, StageModule) else (model,):
            self.inner.sync_buffers(wrapped)

    def evaluated(self, model: nn.Module) -> None:
        for wrapped in model.stages if isinstance(model, StageModule) else (model,):
            self.inner.evaluated(wrapped)

    def grad_norm(self, model: nn.Module) -> torch.Tensor:
        norm = self.inner.grad_norm(model)
        if isinstance(model, StageModule):
            squared = norm.square()
            dist.all_reduce(squared, group=self._group)
            norm = squared.sqrt()
        return norm

    def warm_up(self, model: nn.Module, batch: Batch, loss: Loss) -> None:
        """One throw-away step: a stage that is a DistributedDataParallel needs it."""
        self.dry_step(model, batch, loss)
