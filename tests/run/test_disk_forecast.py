"""The disk that a run will need: what retention keeps, and the save that is made before it deletes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcp_runner.checkpoint.config import CheckpointConfig, KeepConfig
from dcp_runner.checkpoint.retention import steps_to_delete
from dcp_runner.run.disk_forecast import count_saves, forecast_disk_use, max_on_disk


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@given(
    st.integers(1, 60),
    st.none() | st.integers(1, 20),
    st.booleans(),
    st.builds(
        KeepConfig,
        last=st.none() | st.integers(1, 4),
        best=st.integers(0, 3),
        every=st.none() | st.integers(1, 9),
        metric=st.just("loss"),
    ),
    st.randoms(),
)
def test_no_run_has_more_checkpoints_than_the_forecast(
    steps: int, every: int | None, at_end: bool, keep: KeepConfig, draw: Any
) -> None:
    config = CheckpointConfig(every_steps=every, at_end=at_end, keep=keep)
    held: dict[int, dict[str, float]] = {}
    made, most = 0, 0
    for step in range(1, steps + 1):
        if (every and step % every == 0) or (at_end and step == steps):
            held[step] = {"loss": draw.random()}
            made, most = made + 1, max(most, len(held))
            for gone in steps_to_delete(held, keep):
                del held[gone]
    bound = max_on_disk(config, steps)
    assert count_saves(config, steps) == made and bound is not None and most <= bound <= max(made, 1)


def test_by_the_clock_only_retention_gives_a_bound() -> None:
    minutes: dict[str, Any] = {"every_steps": None, "every_minutes": 5.0}
    assert max_on_disk(CheckpointConfig(**minutes), 100) is None
    assert max_on_disk(CheckpointConfig(**minutes, keep=KeepConfig(last=2, best=1)), 100) == 4


@pytest.mark.parametrize(("free", "enough"), [(3_000, True), (2_999, False)])
def test_it_is_compared_with_what_is_free(
    free: int, enough: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: asked.append(path) or Usage(10_000, 0, free))
    root = tmp_path / "not" / "yet"
    text, answer = forecast_disk_use(CheckpointConfig(every_steps=10, at_end=False), 30, 1_000, root)
    assert answer is enough and asked == [tmp_path]
    assert text.startswith("DISK: up to 3 checkpoints of about 1 kB at once, 3 kB in total; ") and str(root) in text
