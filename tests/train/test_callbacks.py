"""Callbacks as a component, and their hooks."""

from __future__ import annotations

import re
from pathlib import Path
from signal import Signals
from typing import Any

import torch
from runs import config
from solo import alone

from dcp_runner import StateComponent
from dcp_runner.checkpoint.topology import Topology
from dcp_runner.common.signals import StopFlag
from dcp_runner.run.build import build_parts
from dcp_runner.train.callbacks import Callback, Callbacks, TrainerView
from dcp_runner.train.loop import Trainer


class Counting(Callback):
    def __init__(self) -> None:
        self.count = 0

    def on_start(self, trainer: Any) -> None:
        self.count += 1

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.count = state_dict["count"]


def named(**counts: Any) -> dict[str, Callback]:
    made: dict[str, Callback] = {"without state": Callback()}
    for name, count in counts.items():
        made[name] = Counting()
        made[name].count = count  # type: ignore[attr-defined]
    return made


def counts(callbacks: Callbacks) -> dict[str, int]:
    return {name: one.count for name, one in callbacks.by_name.items() if isinstance(one, Counting)}


def test_callbacks_are_restored_by_name_whatever_their_order(tmp_path: Path) -> None:
    alone(tmp_path, StateComponent("callbacks", Callbacks(named(a=1, b=2)))).save(1)
    live = Callbacks(named(b=0, a=0))
    alone(tmp_path, StateComponent("callbacks", live)).load(1)
    assert counts(live) == {"a": 1, "b": 2}


def test_a_callback_that_is_added_or_removed_is_reported_and_the_others_keep_their_state(tmp_path: Path) -> None:
    """The removed one's state is not looked into: an enum in it would need a live one."""
    saved = Callbacks(named(a=1, old=2, gone=Signals.SIGTERM, tensor=torch.ones(2)))
    alone(tmp_path, StateComponent("callbacks", saved)).save(1)
    live = Callbacks(named(new=7, a=0))
    report = alone(tmp_path, StateComponent("callbacks", live)).load(1)
    assert counts(live) == {"new": 7, "a": 1}
    dropped = "has state in the checkpoint but is not configured; its state is dropped"
    assert report.accepted == (
        "callbacks: new has no state in the checkpoint and starts fresh",
        *(f"callbacks: {name} {dropped}" for name in ("old", "gone", "tensor")),
    )


def test_a_callback_of_its_own_may_be_added_and_removed_too(tmp_path: Path) -> None:
    """As the runner declares those for which a sharing is given."""
    saved = StateComponent("old", named(old=1)["old"], required=False)
    alone(tmp_path, StateComponent("callbacks", Callbacks(named(a=1))), saved).save(1)
    live, new = Callbacks(named(a=0)), named(new=7)["new"]
    report = alone(tmp_path, StateComponent("callbacks", live), StateComponent("new", new, required=False)).load(1)
    assert counts(live) == {"a": 1} and report.accepted == ("old is not here: its state is dropped",)
    assert ("new", "unchanged (not in the checkpoint)") in [(row.component, row.action) for row in report.rows]


def test_callbacks_that_are_components_of_their_own_are_left_to_themselves() -> None:
    callbacks = Callbacks(named(a=1, b=2), separate=["b"])
    assert callbacks.state_dict() == {"a": {"count": 1}} and list(callbacks.separate) == ["b"]
    callbacks.load_state_dict({"a": {"count": 5}, "b": {"count": 6}})
    assert counts(callbacks) == {"a": 5, "b": 2}
    callbacks.call("on_start", None)
    assert counts(callbacks) == {"a": 6, "b": 3}


def test_a_callback_need_not_have_every_hook() -> None:
    class Old:
        saved = 0

        def on_save(self, trainer: Any, path: Path) -> None:
            self.saved += 1

    callbacks = Callbacks({"old": Old()})  # type: ignore[dict-item]
    for hook in ("on_start", "add_files", "on_save"):
        callbacks.call(hook, None, Path())
    assert callbacks.by_name["old"].saved == 1  # type: ignore[attr-defined]


VIEW = {*TrainerView.__annotations__, *(name for name in vars(TrainerView) if not name.startswith("_"))}


class Reading(Callback):
    """Reads all that the view has."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}

    def on_start(self, trainer: TrainerView) -> None:
        self.found = {name: getattr(trainer, name) for name in VIEW}


def test_the_trainer_has_all_that_the_view_promises() -> None:
    parts = build_parts(config(), Topology(1), torch.device("cpu"))
    callbacks = Callbacks({"reading": (reading := Reading())})
    fields: dict[str, Any] = dict.fromkeys(
        ("config", "checkpoint", "data", "progress", "coordinator", "metrics_log"), 0
    )
    trainer = Trainer(**fields, parts=parts, callbacks=callbacks, stop=StopFlag())
    callbacks.call("on_start", trainer)
    assert len(VIEW) == 11 and reading.found.keys() == VIEW
    assert reading.found["model"] is parts.model and reading.found["optimizer"] is parts.optimizer
    assert reading.found["scheduler"] is parts.scheduler and reading.found["device"] == torch.device("cpu")


def test_callbacks_of_tests_examples_and_pages_use_only_the_view() -> None:
    root = Path(__file__).parents[2]
    files = [*(root / "tests").rglob("*.py"), *(root / "examples").rglob("*.py"), *(root / "docs").rglob("*.md")]
    hook = re.compile(r"def \w+\(self, trainer\b.*?(?=\n\s*(?:def|class|@)\b|\n\S|\Z)", re.S)
    used = {
        name
        for file in files
        for body in hook.findall(file.read_text())
        for name in re.findall(r"\btrainer\.(\w+)", body)
    }
    assert {"model", "progress"} <= used <= VIEW
