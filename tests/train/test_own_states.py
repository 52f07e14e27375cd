"""States of a user's callbacks in real runs: rehearsed, re-cut with the weights, added and removed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from runs import contents, run, steps
from topologies import ALL, BASE, world_of
from torch.distributed.tensor import DTensor

from dcp_runner.checkpoint.state.modules import unwrap
from dcp_runner.train.callbacks import Callback, TrainerView

pytestmark = pytest.mark.timeout(180)


class Holds(Callback):
    """Has a state that cannot be saved, from some step on; or a state that is the rank's own."""

    def __init__(self, since: int | None = None, own: bool = False) -> None:
        self.since, self.own, self.state = since, own, {"calls": 0}

    def on_start(self, trainer: TrainerView) -> None:
        self._now(trainer)

    def on_step(self, trainer: TrainerView, metrics: Mapping[str, float]) -> None:
        self._now(trainer)

    def _now(self, trainer: TrainerView) -> None:
        if self.own:
            self.state["calls"] = torch.distributed.get_rank()
        elif self.since is not None and trainer.progress.step >= self.since:
            self.state["deep"] = [SimpleNamespace()]

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = state


def holding(**how: Any) -> dict[str, Any]:
    return {"callbacks": {"holds": {"_target_": "test_own_states.Holds", **how}}}


LATE = {"checkpoint__every_steps": 100, "checkpoint__at_end": True, "trainer__max_steps": 3}
WHY = "component 'callbacks' cannot be stored: holds/deep/0: type types.SimpleNamespace"


@pytest.mark.slow
@pytest.mark.parametrize(("since", "trained"), [(0, []), (1, [1])])
def test_what_cannot_be_stored_ends_the_run_within_a_step(
    since: int, trained: list[int], tmp_path: Path, capfd: Any
) -> None:
    """Nothing would be saved before step 100."""
    assert run(tmp_path, 1, **LATE, **holding(since=since)) == [1]
    assert WHY in capfd.readouterr().err and list(steps(tmp_path)) == trained


@pytest.mark.slow
def test_a_resumed_start_is_rehearsed_too_and_nothing_where_nothing_is_saved(tmp_path: Path, capfd: Any) -> None:
    more = {"trainer__max_steps": 6}
    assert run(tmp_path, 1, **LATE, **holding()) == [0]
    assert run(tmp_path, 1, **(LATE | more), **holding(since=4)) == [1]
    assert WHY in capfd.readouterr().err and list(steps(tmp_path)) == [1, 2, 3, 4]
    off = {"checkpoint__every_steps": None, "checkpoint__at_end": False}
    assert run(tmp_path, 1, **(LATE | more | off), **holding(since=0)) == [0]
    assert list(steps(tmp_path)) == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_what_differs_between_ranks_ends_the_run_within_a_step(tmp_path: Path, capfd: Any) -> None:
    assert run(tmp_path, 2, **LATE, **holding(own=True)) == [1, 1]
    printed = capfd.readouterr().err
    assert (
        "component 'callbacks'" in printed
        and "'holds/calls' on rank 0-1" in printed
        and "sharing.callbacks=per_rank" in printed
    )
    assert steps(tmp_path) == {}


class Ema(Callback):
    """An average of the weights, made when the training starts unless a checkpoint has it; as people write them. Every
    start leaves what it has found, and every end what it has made, as whole tensors.
    """

    def __init__(self, folder: str, at_step: bool = False) -> None:
        self.folder, self.at_step, self.shadow = Path(folder), at_step, {}

    def on_start(self, trainer: TrainerView) -> None:
        self._leave(trainer, "found")
        if not self.at_step:
            self._make(trainer)

    def on_step(self, trainer: TrainerView, metrics: Mapping[str, float]) -> None:
        self._make(trainer)
        for name, weight in unwrap(trainer.model).named_parameters():
            self.shadow[name].lerp_(weight.detach(), 0.25)

    def _make(self, trainer: TrainerView) -> None:
        weights = unwrap(trainer.model).named_parameters()
        self.shadow = self.shadow or {name: weight.detach().clone() for name, weight in weights}

    def on_end(self, trainer: TrainerView) -> None:
        self._leave(trainer, "made")

    def _leave(self, trainer: TrainerView, what: str) -> None:
        whole = {n: t.full_tensor() if isinstance(t, DTensor) else t for n, t in self.shadow.items()}
        torch.save(whole, self.folder / f"{what}-{trainer.progress.step}-{trainer.coordinator.comm.rank}")

    def state_dict(self) -> dict[str, Any]:
        return {"shadow": self.shadow}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.shadow = dict(state["shadow"])


@pytest.mark.slow
@pytest.mark.parametrize("sharing", [None, "per_rank"])
def test_an_average_of_the_weights_goes_through_the_topologies(sharing: str | None, tmp_path: Path) -> None:
    """Among the callbacks, or a component of its own."""
    ema = {"_target_": "test_own_states.Ema", "folder": str(tmp_path), "at_step": sharing is not None}
    options = BASE | {"callbacks": {"ema": ema}, "checkpoint__at_end": True, "trainer__eval_every": None}
    options |= {"sharing": {"ema": sharing}} if sharing else {}
    for step, name in enumerate(["fsdp-2", "tp-2", "single", "fsdp-2", "fsdp-2", "ddp-2"], 1):
        world = 1 if name == "single" else world_of(ALL[name])
        last = options | {"trainer__max_steps": step}
        assert run(tmp_path / "run", world, parallel=ALL.get(name), **last) == [0] * world, name
        for rank in range(world):
            if step > 1:
                found, made = (
                    torch.load(tmp_path / f"{what}-{step - 1}-{n}") for what, n in (("found", rank), ("made", 0))
                )
                assert found.keys() == made.keys()
                assert [key for key in made if not torch.equal(found[key], made[key])] == [], (name, rank)


@pytest.mark.slow
def test_a_callback_comes_and_goes(tmp_path: Path) -> None:
    """Among the callbacks, and as a component of its own; the rest trains on bit for bit."""
    counted = {"_target_": "test_own_states.Holds"}
    first = {"callbacks": {"old": counted, "kept": counted, "own": counted}, "sharing": {"own": "auto"}}
    second = {"callbacks": {"kept": counted, "new": counted, "moved": counted}, "sharing": {"moved": "auto"}}
    for folder, then in (("whole", first), ("changed", second)):
        assert run(tmp_path / folder, 1, **LATE, **first) == [0]
        assert run(tmp_path / folder, 1, **(LATE | {"trainer__max_steps": 5}), **then) == [0]
    assert steps(tmp_path / "changed") == steps(tmp_path / "whole")
    before, after = (contents(tmp_path / folder / "checkpoints" / "checkpoint-5") for folder in ("whole", "changed"))
    assert before.keys() ^ after.keys() == {"own.safetensors", "moved.safetensors"}
    assert [name for name in before.keys() & after.keys() if before[name] != after[name]] == ["callbacks.safetensors"]


@pytest.mark.slow
def test_another_order_of_samples_is_found_before_anything_changes(tmp_path: Path, capfd: Any) -> None:
    assert run(tmp_path, 1, **LATE) == [0]
    more = LATE | {"trainer__max_steps": 4, "data__shuffle": False}
    assert run(tmp_path, 1, **more) == [1]
    printed = capfd.readouterr().err
    assert "checkpoint phase 'compare' failed" in printed and "shuffle True in the checkpoint, False now" in printed
    assert "resume_skip=[dataset] starts the data from the first sample" in printed
    assert run(tmp_path, 1, **more, resume_skip=["dataset"]) == [0]
