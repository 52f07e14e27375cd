"""What a start claims, loads and retires."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from solo import alone, visible

from dcp_runner import CheckpointCoordinator, StateComponent
from dcp_runner.checkpoint.errors import CheckpointError
from dcp_runner.common.run_context import RunContext
from dcp_runner.run.resume import ResumeRequest
from dcp_runner.run.start import StartState, start_or_resume
from dcp_runner.train.progress import Progress


def coordinator(root: Path) -> tuple[CheckpointCoordinator, Progress]:
    progress = Progress()
    return alone(root, StateComponent("progress", progress)), progress


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """With checkpoints of steps 2 and 4."""
    folder = tmp_path / "run"
    made, progress = coordinator(folder / "checkpoints")
    for progress.step in (2, 4):
        made.save(progress.step)
    made.release()
    return folder


def start(folder: Path, source: int | str, max_steps: int) -> tuple[StartState, CheckpointCoordinator]:
    made, progress = coordinator(folder / "checkpoints")
    folder.mkdir(exist_ok=True)
    run = RunContext(folder, 1, 0, 1, 0, 1, "hash", {"seed": 1})
    return start_or_resume(ResumeRequest(source), run, made, progress, max_steps), made


def test_a_resume_claims_retires_and_records_its_origin(run_dir: Path) -> None:
    state, made = start(run_dir, 2, 6)
    assert state.needs_training and state.loaded is not None and state.loaded.step == state.own_step == 2
    names = [name for name in visible(run_dir / "checkpoints") if "checkpoint-" in name]
    assert len(names) == 2 and names[0] == "checkpoint-2" and names[1].startswith("retired-")
    assert made.origin["launched"] == {"seed": 1} and len(made.origin["run"]) == 32
    assert "beginning" not in made.origin and (run_dir / ".run.json").exists()


def test_from_another_run_its_checkpoint_is_the_parent(run_dir: Path, tmp_path: Path) -> None:
    state, made = start(tmp_path / "other", str(run_dir), 6)
    assert state.loaded is not None and state.loaded.step == 4 and state.own_step is None
    assert made.origin["beginning"]["path"] == str(run_dir) and made.origin["beginning"]["step"] == 4


def test_with_nothing_to_train_nothing_changes(run_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = sorted(run_dir.rglob("*"))
    with caplog.at_level(logging.INFO):
        state, made = start(run_dir, "auto", 4)
    assert not state.needs_training and made.storage.owner is None
    assert any(message.startswith("NOTHING TO TRAIN") for message in caplog.messages)
    assert sorted(run_dir.rglob("*")) == before


@pytest.mark.parametrize("source", ["never", 3])
def test_a_start_that_is_refused_changes_nothing(source: Any, run_dir: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (run_dir / "checkpoints").glob("*checkpoint*")}
    with pytest.raises((CheckpointError, RuntimeError)):
        start(run_dir, source, 6)
    assert {path: path.stat().st_mtime_ns for path in (run_dir / "checkpoints").glob("*checkpoint*")} == before
    assert not (run_dir / ".run.json").exists()


def test_a_fresh_start_loads_nothing(tmp_path: Path) -> None:
    state, made = start(tmp_path / "new", "auto", 6)
    assert state == StartState(None, needs_training=True) and made.storage.owner is not None
