"""The counters of a run as a component."""

from __future__ import annotations

from pathlib import Path

from solo import alone

from dcp_runner import StateComponent
from dcp_runner.train.progress import Progress


def test_both_counters_are_saved_and_restored(tmp_path: Path) -> None:
    alone(tmp_path, StateComponent("progress", Progress(7, 224))).save(7)
    live = Progress()
    alone(tmp_path, StateComponent("progress", live)).load(7)
    assert live == Progress(7, 224)
