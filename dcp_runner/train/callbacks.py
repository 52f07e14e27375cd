"""Callbacks: user code at fixed points of the training loop. A callback with `state_dict` and `load_state_dict` is
saved and restored under its name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from dcp_runner.checkpoint.config import CheckpointConfig
from dcp_runner.checkpoint.coordinator import CheckpointCoordinator
from dcp_runner.checkpoint.stateful import StateDiff, Stateful
from dcp_runner.common.signals import StopFlag
from dcp_runner.train.config import TrainerConfig
from dcp_runner.train.parallel.strategy import Loss, Strategy
from dcp_runner.train.progress import Progress


class TrainerView(Protocol):
    """The training loop as callbacks see it: everything that they may read or call, and nothing else is stable."""

    config: TrainerConfig
    checkpoint: CheckpointConfig
    progress: Progress
    """Optimizer steps done and samples consumed so far. The loop counts; callbacks only read."""
    coordinator: CheckpointCoordinator
    """Saves and loads the training state. `coordinator.topology` knows the mesh, `coordinator.comm` this rank. Its
    methods must be called on all ranks."""
    stop: StopFlag
    """`stop.signal` is the stop signal that this rank has received; None: train on."""

    @property
    def device(self) -> torch.device:
        """The device of this rank."""

    @property
    def strategy(self) -> Strategy:
        """How the model is wrapped, and how a step runs."""

    @property
    def model(self) -> nn.Module:
        """The model as wrapped by the strategy; DistributedDataParallel puts `module.` before every name."""

    @property
    def optimizer(self) -> Optimizer:
        """Parameters that a callback adds to it are saved, and restored on a resume."""

    @property
    def scheduler(self) -> LambdaLR:
        """The learning rate schedule."""

    @property
    def loss(self) -> Loss:
        """A function of (outputs, targets)."""


class Callback:
    """Override the hooks that you need. Every hook but `add_files` is called on every rank."""

    def on_start(self, trainer: TrainerView) -> None:
        """Before the first step, and after the state was loaded on a resume."""

    def on_step(self, trainer: TrainerView, metrics: Mapping[str, float]) -> None:
        """After each optimizer step; `metrics` has `loss`, the mean over the global batch, `grad_norm` and `lr`."""

    def on_evaluate(self, trainer: TrainerView, metrics: dict[str, float]) -> None:
        """After an evaluation; `metrics` has `eval_loss`. Metrics added here, with equal values on all ranks, are
        recorded by a save of this step, so that `checkpoint.keep.metric` can name them.
        """

    def add_files(self, trainer: TrainerView, folder: Path) -> None:
        """Before a checkpoint is committed, on rank 0 only: files written to `folder` become part of it."""

    def on_save(self, trainer: TrainerView, path: Path) -> None:
        """After a checkpoint is committed. Write nothing into it here; use `add_files` instead."""

    def on_end(self, trainer: TrainerView) -> None:
        """After the last step and its save."""


class _Naming(AbstractContextManager["_Naming"]):
    """Adds to an error which hook of which callback raised it."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if error is not None:
            error.add_note(self._text)


class Callbacks:
    """All callbacks by name. As a component it holds their states by name, so adding or removing a callback leaves the
    states of the others unchanged.

    The callbacks in `separate` are components of their own.
    """

    def __init__(self, callbacks: Mapping[str, Callback], separate: Collection[str] = ()) -> None:
        self.by_name = dict(callbacks)
        self.separate = {name: self.by_name[name] for name in separate}

    def call(self, hook: str, trainer: TrainerView, *arguments: Any) -> None:
        """Call a hook of every callback that has it; a callback need not be a subclass of `Callback`."""
        for name, callback in self.by_name.items():
            if (method := getattr(callback, hook, None)) is not None:
                with _Naming(f"(in {hook} of the callback {name!r})"):
                    method(trainer, *arguments)

    def _stateful(self) -> dict[str, Stateful]:
        stateful = {name: callback for name, callback in self.by_name.items() if isinstance(callback, Stateful)}
        return {name: callback for name, callback in stateful.items() if name not in self.separate}

    def state_dict(self) -> dict[str, Any]:
        return {name: callback.state_dict() for name, callback in self._stateful().items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, callback in self._stateful().items():
            if name in state_dict:
                callback.load_state_dict(state_dict[name])

    def accepts(self) -> Callable[[tuple[str, ...]], bool]:
        """Only the states of callbacks that this run has."""
        live = self._stateful()
        return lambda keys: keys[0] in live

    def differences(self, state: dict[str, Any]) -> StateDiff:
        """A callback that was added or removed does not stop a resume."""
        live = self._stateful()
        added = [f"{name} has no state in the checkpoint and starts fresh" for name in live if name not in state]
        removed = [
            f"{name} has state in the checkpoint but is not configured; its state is dropped"
            for name in state
            if name not in live
        ]
        return StateDiff(accepted=added + removed)
