"""Callbacks: a user's code at fixed places of the loop. One with `state_dict` and `load_state_dict` is saved and
restored, by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from dcp_runner.checkpoint.stateful import StateDiff, Stateful

if TYPE_CHECKING:
    from dcp_runner.train.loop import Trainer


class Callback:
    """Override what you need; every method but `add_files` is called on every rank."""

    def on_start(self, trainer: Trainer) -> None:
        """After a resume, before the first step."""

    def on_step(self, trainer: Trainer, metrics: Mapping[str, float]) -> None:
        """After each optimizer step; `metrics` has `loss`, the mean over the global batch, and `grad_norm`, `lr`."""

    def on_evaluate(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        """After an evaluation; `metrics` has `eval_loss`. What is added to it, alike on all ranks, a save of this step
        records too, for `checkpoint.keep.metric`.
        """

    def add_files(self, trainer: Trainer, folder: Path) -> None:
        """Before a checkpoint is committed, on rank 0 alone: files written into `folder` become part of it."""

    def on_save(self, trainer: Trainer, path: Path) -> None:
        """After a checkpoint is committed. Nothing is written into it any more: `add_files` is for that."""

    def on_end(self, trainer: Trainer) -> None:
        """After the last step and its save."""


class _Named(AbstractContextManager["_Named"]):
    """Adds to an error whose it is."""

    def __init__(self, note: str) -> None:
        self._note = note

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if error is not None:
            error.add_note(self._note)


class Callbacks:
    """All callbacks by name; as a component their states by name, so that adding one moves nobody's state.

    Those in `apart` are components of their own.
    """

    def __init__(self, callbacks: Mapping[str, Callback], apart: Collection[str] = ()) -> None:
        self.by_name = dict(callbacks)
        self.apart = {name: self.by_name[name] for name in apart}

    def call(self, hook: str, *arguments: Any) -> None:
        """Call it on all that have it: a callback need not be a `Callback`."""
        for name, callback in self.by_name.items():
            if (called := getattr(callback, hook, None)) is not None:
                with _Named(f"(in {hook} of the callback {name!r})"):
                    called(*arguments)

    def _stateful(self) -> dict[str, Stateful]:
        stateful = {name: callback for name, callback in self.by_name.items() if isinstance(callback, Stateful)}
        return {name: callback for name, callback in stateful.items() if name not in self.apart}

    def state_dict(self) -> dict[str, Any]:
        return {name: callback.state_dict() for name, callback in self._stateful().items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, callback in self._stateful().items():
            if name in state_dict:
                callback.load_state_dict(state_dict[name])

    def accepts(self) -> Callable[[tuple[str, ...]], bool]:
        """Only states of callbacks that are here."""
        live = self._stateful()
        return lambda keys: keys[0] in live

    def differences(self, state: dict[str, Any]) -> StateDiff:
        """A callback that was added or removed stops no resume."""
        live = self._stateful()
        added = [f"{name} has no state in the checkpoint: it starts afresh" for name in live if name not in state]
        removed = [
            f"{name} has a state in the checkpoint and is not here: its state is dropped"
            for name in state
            if name not in live
        ]
        return StateDiff(accepted=added + removed)
