"""The training loop. It knows nothing of sharing patterns, files or the number of ranks."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from functools import cached_property, partial

import torch

from dcp_runner.checkpoint.config import CheckpointConfig, KeepConfig
from dcp_runner.checkpoint.coordinator import CheckpointCoordinator
from dcp_runner.checkpoint.retention import steps_to_delete
from dcp_runner.common.signals import StopFlag
from dcp_runner.train.callbacks import Callbacks
from dcp_runner.train.config import NonFinite, TrainerConfig
from dcp_runner.train.errors import NonFiniteError, TrainError
from dcp_runner.train.metrics_log import MetricsLog
from dcp_runner.train.nonfinite import nonfinite_tensors, nonfinite_values, summarize_ranks
from dcp_runner.train.optimizer_modes import set_mode
from dcp_runner.train.parallel.gradients import clip_gradients
from dcp_runner.train.parts import Parts, TrainingData
from dcp_runner.train.policies import SavePolicy, best_caveat, effective_keep, needs_metric, recorded_metrics
from dcp_runner.train.precision import autocast
from dcp_runner.train.progress import Progress
from dcp_runner.train.rng import preserve_rng
from dcp_runner.train.step_sync import StepOutcome, global_mean, sync_step

log = logging.getLogger("dcp_runner.train")


@dataclass(kw_only=True)
class Trainer:
    """Trains from `progress.step` to `config.max_steps`. Callbacks see it as a `TrainerView`."""

    config: TrainerConfig
    checkpoint: CheckpointConfig
    parts: Parts
    data: TrainingData
    progress: Progress
    callbacks: Callbacks
    coordinator: CheckpointCoordinator
    metrics_log: MetricsLog
    stop: StopFlag
    resumed_step: int | None = None
    """Step of the run's own checkpoint that this start resumed from, which is never deleted; None: it did not."""

    def __post_init__(self) -> None:
        parts = self.parts
        self.device, self.strategy, self.model, self.loss = parts.device, parts.strategy, parts.model, parts.loss
        self.optimizer, self.scheduler = parts.optimizer, parts.scheduler

    def run(self) -> None:
        """Train. Raises SystemExit with 128 + signal after a save, where a stop signal has arrived."""
        policy = SavePolicy.of(self.checkpoint, time.monotonic)
        self.metrics_log.start(self.progress.step, self.config.max_steps)
        every = self.config.eval_every if self.data.evaluation else None
        if text := best_caveat(self.checkpoint, every):
            log.info("%s", text)
        self.callbacks.call("on_start", self)
        first = self.progress.step
        self._rehearse()
        while self.progress.step < self.config.max_steps:
            outcome = self._step(policy)
            if self.progress.step == first + 1:
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
        """The retention rules in force."""
        return effective_keep(self.checkpoint.keep, self.data.evaluation is not None)

    def _step(self, policy: SavePolicy) -> StepOutcome:
        self.model.train()
        set_mode(self.optimizer, "train")
        batches = [self.parts.to_device(batch) for batch in self.data.feed.next()]
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(self.device, self.config.precision):
            loss = self.strategy.step(self.model, batches, self.loss)
        self.strategy.sync_buffers(self.model)
        norm = self.strategy.grad_norm(self.model)
        own_loss = None if loss is None else float(loss)
        outcome = sync_step(own_loss, float(norm), policy.overdue(), self.stop.signal)
        if not outcome.finite:
            gradients = ((name, parameter.grad) for name, parameter in self.model.named_parameters())
            found = nonfinite_values({"loss": own_loss, "gradient norm": float(norm)})
            self._refuse_nonfinite(self.progress.step + 1, found + nonfinite_tensors("gradient of", gradients))
        if self.config.clip_norm is not None:
            clip_gradients(self.model.parameters(), self.config.clip_norm, norm)
        lr = float(self.scheduler.get_last_lr()[0])
        self.optimizer.step()
        self.scheduler.step()
        set_mode(self.optimizer, "eval")
        self.progress.step += 1
        self.progress.samples = self.data.feed.consumed
        metrics = {"loss": outcome.loss, "lr": lr, "grad_norm": float(norm)}
        self.metrics_log.step(self.progress.step, metrics)
        self.callbacks.call("on_step", self, metrics)
        return outcome

    def _refuse_nonfinite(self, step: int, found: list[str]) -> None:
        """If any rank has found non-finite values, stop all ranks or warn on rank 0. `found` is what this rank found.

        Raises NonFiniteError.
        """
        text = summarize_ranks(self.coordinator.comm.exchange("step", found))
        if text and self.config.nonfinite is NonFinite.stop:
            steps, root = self.coordinator.steps(), self.coordinator.storage.root
            raise NonFiniteError(
                f"step {step} is not finite: {text}. Nothing of this step is saved; "
                f"{f'the last checkpoint is checkpoint-{steps[-1]}' if steps else 'there is no checkpoint'} in {root}. "
                "Try a lower optim.lr or trainer.clip_norm, or other data; trainer.nonfinite=warn continues regardless"
            )
        if text:
            self.metrics_log.warning(step, "nonfinite", f"step {step} is not finite: {text}")

    def _evaluate(self) -> dict[str, float]:
        """The mean loss over the evaluation set. Leaves the random generators as they were."""
        assert self.data.evaluation is not None
        self.model.eval()
        total, count = 0.0, 0
        with preserve_rng(), torch.no_grad(), autocast(self.device, self.config.precision):
            for batch, samples in self.data.evaluation():
                loss = self.strategy.evaluate(self.model, self.parts.to_device(batch), self.loss)
                if loss is not None and samples:
                    total += float(loss) * samples
                    count += samples
        self.strategy.after_evaluation(self.model)
        metrics = {"eval_loss": global_mean(total, count)}
        if not math.isfinite(metrics["eval_loss"]):
            self._refuse_nonfinite(self.progress.step, nonfinite_values({"eval_loss": total}))
        self.metrics_log.evaluated(self.progress.step, metrics)
        self.callbacks.call("on_evaluate", self, metrics)
        if (
            self.keep.last is not None
            and self.keep.best
            and self.keep.metric not in (*metrics, *recorded_metrics(False))
        ):
            raise TrainError(
                f"checkpoint.keep.metric={self.keep.metric}: no evaluation records this metric (found: "
                f"{', '.join(metrics)}); a callback can add it in on_evaluate"
            )
        return metrics

    def _rehearse(self) -> None:
        """End the run now, not hours later, if a save would be refused."""
        if self.checkpoint.saves and self.progress.step < self.config.max_steps:
            self.coordinator.rehearse()

    def _save(self, metrics: dict[str, float]) -> None:
        step, start = self.progress.step, time.monotonic()
        self._refuse_nonfinite(step, nonfinite_tensors("weight", self.model.named_parameters()))
        known = {name: value for name, value in metrics.items() if not math.isnan(value)}
        path = self.coordinator.save(step, known, add_files=partial(self.callbacks.call, "add_files", self))
        self.metrics_log.saved(step, path, time.monotonic() - start)
        if self.keep.last is not None:
            if self.keep.best and self.keep.metric not in known:
                text = f"checkpoint-{step} has no {self.keep.metric}, so it cannot be one of the best"
                self.metrics_log.event(step, "unmeasured", text)
            self._delete_old()
        for name in self.coordinator.delete_retired(self.keep.retired) if self.keep.retired is not None else ():
            text = f"DELETED {name} (checkpoint.keep.retired={self.keep.retired})"
            self.metrics_log.event(step, "deleted", text, folder=name)
        self.callbacks.call("on_save", self, path)

    def _delete_old(self) -> None:
        """Delete the checkpoints that no rule of checkpoint.keep keeps."""
        protected = [self.resumed_step] if self.resumed_step is not None else []
        for old in self.coordinator.delete(steps_to_delete(self.coordinator.metrics(), self.keep, protected)):
            text = f"DELETED checkpoint-{old} (no rule of checkpoint.keep keeps it)"
            self.metrics_log.event(old, "deleted", text)
