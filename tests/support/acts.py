"""Callbacks for runs on the cluster: slow steps, and a rank that fails once."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import torch.distributed as dist

from dcp_runner.train.callbacks import Callback, TrainerView


class Slow(Callback):
    """Steps of at least so many seconds: the last rank sleeps, and the others spend them inside a collective."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def on_step(self, trainer: TrainerView, metrics: Mapping[str, float]) -> None:
        if not dist.is_initialized() or dist.get_rank() == dist.get_world_size() - 1:
            time.sleep(self.seconds)


class Harm(Callback):
    """What happens to rank 1 after a step, in the first start only: nothing, raise, kill or stop."""

    def __init__(self, what: str, step: int, marks: str) -> None:
        self.what, self.step, self.mark = what, step, Path(marks) / what

    def on_step(self, trainer: TrainerView, metrics: Mapping[str, float]) -> None:
        if trainer.progress.step != self.step or dist.get_rank() != 1 or self.mark.exists():
            return
        self.mark.touch()
        if self.what == "raise":
            raise ValueError("boom")
        signals = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}
        if self.what in signals:
            os.kill(os.getpid(), signals[self.what])
