"""The training loop. It knows nothing of patterns, files or the number of ranks."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from dcp_runner.checkpoint.config import CheckpointConfig, KeepConfig
from dcp_runner.checkpoint.coordinator import CheckpointCoordinator
from dcp_runner.checkpoint.retention import steps_to_delete
from dcp_runner.checkpoint.state.rng import RngState
from dcp_runner.common.signals import StopFlag
from dcp_runner.common.torch_private import tree_map_only
from dcp_runner.data.feed import Feed
from dcp_runner.train.callbacks import Callbacks
from dcp_runner.train.config import NonFinite, TrainerConfig
from dcp_runner.train.errors import NonFiniteError, TrainError
from dcp_runner.train.metrics_log import Report
from dcp_runner.train.nonfinite import by_ranks, nonfinite_tensors, nonfinite_values
from dcp_runner.train.optimizer_modes import switch
from dcp_runner.train.parallel.gradients import clip
from dcp_runner.train.parallel.strategy import Batch, Loss, Strategy
from dcp_runner.train.policies import SavePolicy, about_best, effective, needs_metric, recorded
from dcp_runner.train.precision import autocast
from dcp_runner.train.progress import Progress
from dcp_runner.train.step_sync import StepOutcome, agree, mean

log = logging.getLogger("dcp_runner.train")


@dataclass(kw_only=True)
class Trainer:
    """Everything that a run trains with. `run` takes it from `progress.step` to `config.max_steps`."""

    config: TrainerConfig
    checkpoint: CheckpointConfig
    strategy: Strategy
    model: nn.Module
    """As wrapped by the strategy."""
    loss: Loss
    optimizer: Optimizer
    scheduler: LambdaLR
    feed: Feed
    evaluation: Callable[[], Iterator[tuple[Batch, int]]] | None
    """A new pass over this rank's part of the evaluation set: batches and the samples that count, as often on every
    rank. None: the run never evaluates."""
    progress: Progress
    callbacks: Callbacks
    coordinator: CheckpointCoordinator
    report: Report
    stop: StopFlag
    device: torch.device
    source: int | None = None
    """Step of the own checkpoint that this start resumed from; it is kept."""

    def run(self) -> None:
        """Train. Raises SystemExit with 128 + signal after a save, where a signal asked to stop."""
        policy = SavePolicy.of(self.checkpoint, time.monotonic)
        self.report.start(self.progress.step, self.config.max_steps)
        every = self.config.eval_every if self.evaluation else None
        if text := about_best(self.checkpoint, every):
            log.info("%s", text)
        self.callbacks.call("on_start", self)
        begin = self.progress.step
        self._rehearse()
        while self.progress.step < self.config.max_steps:
            outcome = self._step(policy)
            if self.progress.step == begin + 1:
                self._rehearse()  # optimizers have made their state
            step, last = self.progress.step, self.progress.step == self.config.max_steps
            save = policy.due(step, outcome.overdue) or (last and self.checkpoint.at_end) or outcome.stop
            metrics = {"loss": outcome.loss}
            unknown = save and not outcome.stop and needs_metric(self.checkpoint)
            if every is not None and (last or step % every == 0 or unknown):
                metrics |= self._evaluate()
            if save:
                self._save(metrics)
                policy.saved()
            if outcome.stop and not last:
                raise SystemExit(128 + outcome.stop)
        self.callbacks.call("on_end", self)

    @cached_property
    def keep(self) -> KeepConfig:
        """The retention that is in force."""
        return effective(self.checkpoint.keep, self.evaluation is not None)

    def _step(self, policy: SavePolicy) -> StepOutcome:
        self.model.train()
        switch(self.optimizer, "train")
        batches = [to_device(batch, self.device) for batch in self.feed.next()]
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(self.device, self.config.precision):
            loss = self.strategy.step(self.model, batches, self.loss)
        self.strategy.sync_buffers(self.model)
        norm = self.strategy.grad_norm(self.model)
        own = None if loss is None else float(loss)
        outcome = agree(own, float(norm), policy.overdue(), self.stop.signal)
        if not outcome.finite:
            gradients = [(name, parameter.grad) for name, parameter in self.model.named_parameters()]
            found = nonfinite_values({"loss": own, "gradient norm": float(norm)}) + nonfinite_tensors(
                "gradient of", gradients
            )
            self._not_finite(self.progress.step + 1, found)
        if self.config.clip_norm is not None:
            clip(self.model.parameters(), self.config.clip_norm, norm)
        lr = float(self.scheduler.get_last_lr()[0])
        self.optimizer.step()
        self.scheduler.step()
        switch(self.optimizer, "eval")
        self.progress.step += 1
        self.progress.samples = self.feed.consumed
        metrics = {"loss": outcome.loss, "lr": lr, "grad_norm": float(norm)}
        self.report.step(self.progress.step, metrics)
        self.callbacks.call("on_step", self, metrics)
        return outcome

    def _not_finite(self, step: int, found: list[str]) -> None:
        """Stop all ranks, or warn on rank 0, if any rank has found something; `found` is what this one has.

        Raises NonFiniteError.
        """
        text = by_ranks(self.coordinator.comm.exchange("step", found))
        if text and self.config.nonfinite is NonFinite.stop:
            steps, root = self.coordinator.steps(), self.coordinator.storage.root
            raise NonFiniteError(
                f"step {step} is not finite: {text}. Nothing of it is saved; "
                f"{f'checkpoint-{steps[-1]} is the last one' if steps else 'there is no checkpoint'} in {root}. "
                "Try a lower optim.lr or trainer.clip_norm, or other data; trainer.nonfinite=warn goes on as it is"
            )
        if text:
            self.report.warning(step, "nonfinite", f"step {step} is not finite: {text}")

    def _evaluate(self) -> dict[str, float]:
        """The mean loss over the evaluation set; the random generators are left as they were."""
        assert self.evaluation is not None
        self.model.eval()
        total, count = 0.0, 0
        with rng_put_back(), torch.no_grad(), autocast(self.device, self.config.precision):
            for batch, samples in self.evaluation():
                loss = self.strategy.evaluate(self.model, to_device(batch, self.device), self.loss)
                if loss is not None and samples:
                    total += float(loss) * samples
                    count += samples
        self.strategy.evaluated(self.model)
        metrics = {"eval_loss": mean(total, count)}
        if not math.isfinite(metrics["eval_loss"]):
            self._not_finite(self.progress.step, nonfinite_values({"eval_loss": total}))
        self.report.evaluated(self.progress.step, metrics)
        self.callbacks.call("on_evaluate", self, metrics)
        if self.keep.last is not None and self.keep.best and self.keep.metric not in (*metrics, *recorded(False)):
            raise TrainError(
                f"checkpoint.keep.metric={self.keep.metric}: no evaluation records it; this one has "
                f"{', '.join(metrics)}, which callbacks may add to in on_evaluate"
            )
        return metrics

    def _rehearse(self) -> None:
        """What a save would refuse ends the run now, not hours later."""
        if self.checkpoint.saves and self.progress.step < self.config.max_steps:
            self.coordinator.rehearse()

    def _save(self, metrics: dict[str, float]) -> None:
        step, began = self.progress.step, time.monotonic()
        self._not_finite(step, nonfinite_tensors("weight", self.model.named_parameters()))
        known = {name: value for name, value in metrics.items() if value == value}
        path = self.coordinator.save(step, known, add_files=partial(self.callbacks.call, "add_files", self))
        self.report.saved(step, path, time.monotonic() - began)
        if self.keep.last is not None:
            if self.keep.best and self.keep.metric not in known:
                text = f"checkpoint-{step} has no {self.keep.metric}, so it cannot be one of the best"
                self.report.event(step, "unmeasured", text)
            self._retain()
        for name in self.coordinator.delete_retired(self.keep.retired) if self.keep.retired is not None else ():
            text = f"DELETED {name} (checkpoint.keep.retired={self.keep.retired})"
            self.report.event(step, "deleted", text, folder=name)
        self.callbacks.call("on_save", self, path)

    def _retain(self) -> None:
        """Delete what no rule of checkpoint.keep keeps."""
        protected = [self.source] if self.source is not None else []
        for old in self.coordinator.delete(steps_to_delete(self.coordinator.metrics(), self.keep, protected)):
            self.report.event(old, "deleted", f"DELETED checkpoint-{old} (no rule of checkpoint.keep keeps it)")


@contextmanager
def rng_put_back() -> Iterator[None]:
    """Restore the random generators afterwards."""
    rng = RngState()
    before = rng.state_dict()
    try:
        yield
    finally:
        rng.load_state_dict(before)


def to_device(batch: Any, device: torch.device) -> Any:
    """The batch with all tensors on the device."""
    return tree_map_only(torch.Tensor, lambda tensor: tensor.to(device, non_blocking=True), batch)
