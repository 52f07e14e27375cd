"""What rank 0 writes, and what the console shows of it."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path

import pytest
from solo import boxed

from dcp_runner.common.errors import FileAccessError
from dcp_runner.train.metrics_log import MetricsLog, Rank0MetricsLog
from dcp_runner.train.trackers import Trackers


class Recording:
    def __init__(self) -> None:
        self.steps: list[tuple[int, Mapping[str, float]]] = []
        self.closed = False

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.steps.append((step, metrics))

    def close(self) -> None:
        self.closed = True


def test_every_step_is_in_the_file_and_some_on_the_console(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tracker, file = Recording(), tmp_path / "metrics.jsonl"
    metrics_log = Rank0MetricsLog(file, 3, 2, False, Trackers([tracker]))
    with caplog.at_level(logging.INFO):
        metrics_log.start(0, 5)
        for step in range(1, 6):
            metrics_log.step(step, {"loss": step / 2})
        metrics_log.evaluated(5, {"eval_loss": math.nan})
        metrics_log.saved(5, boxed(tmp_path / "root", {"a": 1})[1].save(5), 0.5)
        metrics_log.warning(5, "nonfinite", "step 5 is not finite")
        metrics_log.close()
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert all(line["attempt"] == 3 for line in lines)
    assert [line["loss"] for line in lines if "loss" in line] == [0.5, 1.0, 1.5, 2.0, 2.5]
    assert [line["eval_loss"] for line in lines if "eval_loss" in line] == ["nan"]
    assert [line["event"] for line in lines if "event" in line] == ["saved", "nonfinite"]
    logged = [message.split()[1] for message in caplog.messages if "  loss " in message]
    assert logged == ["2/5", "4/5", "5/5"], "every second step, and the last"
    assert any(message.startswith("SAVED step=5 ") for message in caplog.messages)
    assert [step for step, _ in tracker.steps] == [1, 2, 3, 4, 5, 5, 5] and tracker.closed


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    metrics_log = MetricsLog()
    metrics_log.start(0, 1)
    metrics_log.step(1, {"loss": 1.0})
    metrics_log.event(1, "saved", "text", bytes=3)
    metrics_log.close()
    assert [*tmp_path.iterdir()] == []


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(FileAccessError, match=r"metrics\.jsonl"):
        Rank0MetricsLog(tmp_path / "metrics.jsonl", 1, 1, False, Trackers())
