"""What a run prints at its start and at its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from solo import alone

from dcp_runner import StateComponent
from dcp_runner.common.run_context import RunContext
from dcp_runner.common.signals import StopFlag
from dcp_runner.run.summary import log_start
from dcp_runner.train.callbacks import Callback, Callbacks
from dcp_runner.train.metrics_log import MetricsLog


class Counting(Callback):
    """A callback with a state."""

    def state_dict(self) -> dict[str, Any]:
        return {"count": 0}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        pass


def test_the_start_lists_callbacks_that_were_added_or_removed(tmp_path: Path) -> None:
    alone(tmp_path, StateComponent("callbacks", Callbacks({"old": Counting(), "kept": Counting()}))).save(3)
    coordinator = alone(tmp_path, StateComponent("callbacks", Callbacks({"new": Counting(), "kept": Counting()})))
    texts: list[str] = []
    metrics_log = MetricsLog()
    metrics_log.event = lambda step, event, text, **more: texts.append(text)  # type: ignore[method-assign]
    context = RunContext(tmp_path, 1, 0, 1, 0, 1, "abc", {}, StopFlag())
    log_start(metrics_log, context, coordinator, coordinator.load(3), [])
    assert texts[0].splitlines()[-2:] == [
        "callbacks: new has no state in the checkpoint and starts fresh",
        "callbacks: old has state in the checkpoint but is not configured; its state is dropped",
    ]
