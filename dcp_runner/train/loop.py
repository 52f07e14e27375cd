"""The training loop. It knows nothing of patterns, files or the number of ranks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from dcp_runner.checkpoint.config import CheckpointConfig
from dcp_runner.checkpoint.coordinator import CheckpointCoordinator
from dcp_runner.checkpoint.rng import RngState
from dcp_runner.data.feed import Feed
from dcp_runner.train.agreement import agree, mean
from dcp_runner.train.callbacks import Callbacks
from dcp_runner.train.config import Precision, TrainerConfig
from dcp_runner.train.gradients import clip
from dcp_runner.train.policies import SavePolicy, superfluous
from dcp_runner.train.progress import Progress
from dcp_runner.train.report import Report
from dcp_runner.train.signals import StopFlag
from dcp_runner.train.strategy import Batch, Loss, Strategy


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
    rank."""
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
        self.callbacks.call("on_start", self)
        while self.progress.step < self.config.max_steps:
            outcome = self._step(policy)
            step, last = self.progress.step, self.progress.step == self.config.max_steps
            metrics = {"loss": outcome.loss}
            if self.evaluation and self.config.eval_every and (step % self.config.eval_every == 0 or last):
                metrics |= self._evaluate()
            if policy.due(step, outcome.overdue) or (last and self.checkpoint.at_end) or outcome.stop:
                self._save(metrics)
                policy.saved()
            if outcome.stop and not last:
                raise SystemExit(128 + outcome.stop)
        self.callbacks.call("on_end", self)

    def _step(self, policy: SavePolicy) -> Any:
        self.model.train()
        batches = [to_device(batch, self.device) for batch in self.feed.next()]
        self.optimizer.zero_grad(set_to_none=True)
        with self._autocast():
            loss = self.strategy.step(self.model, batches, self.loss)
        norm = self.strategy.norm(self.model)
        if self.config.clip_norm is not None:
            clip(self.model.parameters(), self.config.clip_norm, norm)
        lr = float(self.scheduler.get_last_lr()[0])
        self.optimizer.step()
        self.scheduler.step()
        self.progress.step += 1
        self.progress.samples = self.feed.consumed
        outcome = agree(loss, policy.overdue(), self.stop.signal)
        metrics = {"loss": outcome.loss, "lr": lr, "grad_norm": float(norm)}
        self.report.step(self.progress.step, metrics)
        self.callbacks.call("on_step", self, metrics)
        return outcome

    def _evaluate(self) -> dict[str, float]:
        """The mean loss over the evaluation set; the random generators are left as they were."""
        assert self.evaluation is not None
        self.model.eval()
        total, count = 0.0, 0
        with rng_put_back(), torch.no_grad(), self._autocast():
            for batch, samples in self.evaluation():
                loss = self.strategy.evaluate(self.model, to_device(batch, self.device), self.loss)
                if loss is not None and samples:
                    total += float(loss) * samples
                    count += samples
        metrics = {"eval_loss": mean(total, count)}
        self.report.evaluated(self.progress.step, metrics)
        self.callbacks.call("on_evaluate", self, metrics)
        return metrics

    def _save(self, metrics: dict[str, float]) -> None:
        step, began = self.progress.step, time.monotonic()
        path = self.coordinator.save(step, {name: value for name, value in metrics.items() if value == value})
        self.report.saved(step, path, time.monotonic() - began)
        keep = self.checkpoint.keep
        metrics_of = {s: m.metrics for s, m in self.coordinator.list().items()} if keep.last is not None else {}
        protected = [self.source] if self.source is not None else []
        for old in self.coordinator.delete(superfluous(metrics_of, keep, protected)):
            self.report.event(old, "deleted", f"DELETED checkpoint-{old} (no rule of checkpoint.keep keeps it)")
        for name in self.coordinator.delete_retired(keep.retired) if keep.retired is not None else ():
            self.report.event(step, "deleted", f"DELETED {name} (checkpoint.keep.retired={keep.retired})", folder=name)
        self.callbacks.call("on_save", self, path)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision is Precision.bf16)


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
    return torch.utils._pytree.tree_map_only(torch.Tensor, lambda tensor: tensor.to(device, non_blocking=True), batch)
