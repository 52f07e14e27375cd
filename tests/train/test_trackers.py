"""A run folder is one run of every tracker: one id, one process, and no step is told twice, whatever happens to it."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch.distributed as dist
from runs import config, run

from dcp_runner.common.errors import ConfigError
from dcp_runner.run.build import build_trackers
from dcp_runner.train.trackers import TensorBoard, Trackers, Wandb, run_id_and_last_step


class Recording:
    """Writes down all that it is told."""

    def __init__(self, run_dir: Path, run_id: str, file: str = "told.jsonl") -> None:
        self.file = (run_dir / file).open("a")
        self._write(made=run_id, rank=dist.get_rank() if dist.is_initialized() else 0)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._write(step=step, metrics=dict(metrics))

    def close(self) -> None:
        self._write(closed=True)
        self.file.close()

    def _write(self, **told: Any) -> None:
        print(json.dumps(told), file=self.file, flush=True)


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def steps_of(file: Path, name: str) -> list[int]:
    return [line["step"] for line in lines(file) if name in line.get("metrics", ())]


TRACKERS = {"one": {"_target_": "test_trackers.Recording"}}
TRACKERS |= {"two": {"_target_": "test_trackers.Recording", "file": "two.jsonl"}}


def test_three_attempts_are_one_run_that_never_goes_back(tmp_path: Path) -> None:
    """Stopped by a signal at 6, gone on to 8, and taken back to 4."""
    folder, told = tmp_path / "run", tmp_path / "run" / "told.jsonl"
    kill = {"_target_": "runs.KillAt", "step": 5, "ranks": [1], "mark": str(tmp_path / "mark"), "signum": 15}
    options: dict[str, Any] = {"logger__trackers": TRACKERS}
    assert run(folder, 2, callbacks={"kill": kill}, **options) == [128 + signal.SIGTERM] * 2
    assert run(folder, 2, **options) == [0, 0]
    assert run(folder, 2, **options, resume=4, trainer__max_steps=10) == [0, 0]

    made = [line for line in lines(told) if "made" in line]
    assert made == [{"made": (folder / "tracker_id").read_text().strip(), "rank": 0}] * 3
    assert sum("closed" in line for line in lines(told)) == 3
    for name in ("loss", "lr", "grad_norm"):
        assert steps_of(told, name) == [*range(1, 11)]
    assert steps_of(told, "eval_loss") == [2, 4, 6, 8, 10]
    assert steps_of(told, "checkpoint/seconds") == steps_of(told, "checkpoint/bytes") == [4, 6, 8, 10]
    assert steps_of(folder / "two.jsonl", "loss") == [*range(1, 11)]

    written = [(line["attempt"], line["step"]) for line in lines(folder / "metrics.jsonl") if "lr" in line]
    assert written == [(1, s) for s in range(1, 7)] + [(2, 7), (2, 8)] + [(3, s) for s in range(5, 11)]


def test_tensorboard_reads_one_curve(tmp_path: Path) -> None:
    """A file for each attempt; read one by one, because TensorBoard itself hides what is told twice."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    trackers = {"tensorboard": {"_target_": "dcp_runner.train.trackers.TensorBoard"}}
    for wish, end in (("auto", 4), ("auto", 6), (4, 7)):
        assert run(tmp_path, 1, logger__trackers=trackers, resume=wish, trainer__max_steps=end) == [0]
    files = [reader.EventAccumulator(str(file)).Reload() for file in (tmp_path / "tensorboard").iterdir()]
    assert len(files) == 3
    told = [line for line in lines(tmp_path / "metrics.jsonl") if "lr" in line]
    first = {line["step"]: line["loss"] for line in reversed(told)}
    losses = sorted((event.step, event.value) for file in files for event in file.Scalars("loss"))
    assert losses == [(step, pytest.approx(first[step])) for step in range(1, 8)]
    assert sorted(event.step for file in files for event in file.Scalars("eval_loss")) == [2, 4, 6, 7]


def test_tensorboard_has_every_step_of_a_run_that_is_killed(tmp_path: Path) -> None:
    """The next attempt does not tell them again."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    tracker = TensorBoard(tmp_path, "id")
    tracker.log(1, {"loss": 1.0})
    (file,) = (tmp_path / "tensorboard").iterdir()
    assert [event.step for event in reader.EventAccumulator(str(file)).Reload().Scalars("loss")] == [1]
    tracker.close()


def test_the_mark_is_the_highest_step_that_was_told(tmp_path: Path) -> None:
    """Also where the file ends in a torn line, and where an event tells of a higher step; a tracker that is new in an
    old run is told all from there on.
    """
    lines = ['{"step": 130, "loss": 1.0}', '{"step": 100, "loss": 1.0}', '{"step": 140, "event": "deleted"}']
    (tmp_path / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 135, "lo']))
    name, mark = run_id_and_last_step(tmp_path)
    assert mark == 0 and run_id_and_last_step(tmp_path) == (name, 130)
    trackers = Trackers([Recording(tmp_path, name)], 130)
    for step in (101, 130, 131):
        trackers.log(step, {"loss": 1.0})
    trackers.close()
    assert steps_of(tmp_path / "told.jsonl", "loss") == [131]


@pytest.mark.parametrize(("kind", "module"), [("TensorBoard", "torch.utils.tensorboard"), ("Wandb", "wandb")])
def test_a_missing_package_is_told(kind: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    made = config(logger__trackers={"mine": {"_target_": f"dcp_runner.train.trackers.{kind}"}})
    with pytest.raises(ConfigError, match=rf"logger\.trackers\.mine: .*pip install 'dcp_runner\[{kind.lower()}\]'"):
        build_trackers(made, tmp_path)


def test_wandb_continues_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the package, which wants a server."""
    told: list[Any] = []
    log = lambda metrics, step: told.append((step, metrics))  # noqa: E731
    one = SimpleNamespace(log=log, finish=lambda: told.append("finished"))
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **options: told.append(options) or one))
    tracker = Wandb(tmp_path, "abc", tags=["a"])
    tracker.log(3, {"loss": 1.0})
    tracker.close()
    start = {"id": "abc", "resume": "allow", "dir": tmp_path, "project": "dcp_runner", "tags": ["a"]}
    assert told == [start, (3, {"loss": 1.0}), "finished"]
