"""The checkpoint root: what counts as a checkpoint, and what a commit, a retirement and a deletion change there."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from solo import Box, boxed, visible

from dcp_runner import CheckpointCoordinator, CheckpointError


def saved(folder: Path, losses: dict[int, float | None], **options: Any) -> tuple[Box, CheckpointCoordinator]:
    """A box that held `step` at each of these saves."""
    box, coordinator = boxed(folder, **options)
    for step, loss in losses.items():
        box.state = {"step": step}
        coordinator.save(step, {} if loss is None else {"eval_loss": loss, "accuracy": loss})
    return box, coordinator


def failure_of(coordinator: CheckpointCoordinator, which: Any, **options: Any) -> CheckpointError:
    with pytest.raises(CheckpointError) as failure:
        coordinator.load(which, **options)
    return failure.value


def test_a_committed_step_is_never_overwritten(tmp_path: Path) -> None:
    box, coordinator = saved(tmp_path, {5: 1.0})
    before = {file.name: file.read_bytes() for file in (tmp_path / "checkpoint-5").iterdir()}
    box.state = {"step": -1}
    with pytest.raises(CheckpointError, match="committed checkpoints are never written to") as failure:
        coordinator.save(5)
    assert failure.value.types == {"FileExistsError"}
    assert before == {file.name: file.read_bytes() for file in (tmp_path / "checkpoint-5").iterdir()}
    assert visible(tmp_path) == ["checkpoint-5", "latest"]
    assert coordinator.save(6) == tmp_path / "checkpoint-6", "a failed save does not stop the next one"


def test_what_is_no_committed_checkpoint_never_counts(tmp_path: Path) -> None:
    _, coordinator = saved(tmp_path, {1: 1.0, 2: 0.5})
    (tmp_path / "checkpoint-7").write_text("a file")
    shutil.copytree(tmp_path / "checkpoint-1", tmp_path / "checkpoint-8.bak")
    shutil.copytree(tmp_path / "checkpoint-1", tmp_path / ".staging-x-checkpoint-9")
    shutil.copytree(tmp_path / "checkpoint-1", tmp_path / "retired-1-checkpoint-10")
    assert coordinator.latest() == tmp_path / "checkpoint-2" and list(coordinator.list()) == [1, 2]
    assert coordinator.load("latest").step == coordinator.load("best").step == 2


def test_going_back_retires_what_lies_above_and_the_step_can_be_saved_anew(tmp_path: Path) -> None:
    box, coordinator = saved(tmp_path, {1: None, 2: None, 3: None}, attempt=4)
    coordinator.load(1)
    assert list(coordinator.retire_after(1)) == [2, 3] and list(coordinator.retire_after(1)) == []
    assert coordinator.load("latest").step == 1
    for step in (2, 3):
        box.state = {"step": step, "branch": "new"}
        coordinator.save(step)
    assert list(coordinator.retire_after(2)) == [3]
    assert coordinator.load("latest").step == 2 and box.state["branch"] == "new"
    names = {entry.name for entry in tmp_path.iterdir() if entry.name.startswith("retired")}
    assert names == {"retired-4-checkpoint-2", "retired-4-checkpoint-3", "retired-4.2-checkpoint-3"}
    coordinator.load(tmp_path / "retired-4-checkpoint-3")
    assert box.state == {"step": 3}, "what is retired is not lost"


def test_deleting_and_sweeping_leave_no_trash(tmp_path: Path) -> None:
    _, coordinator = saved(tmp_path, {1: None, 2: None, 3: None})
    coordinator.delete([1, 3])
    (tmp_path / ".staging-old-checkpoint-9").mkdir()
    (tmp_path / ".trash-1-checkpoint-8").mkdir()
    _, later = boxed(tmp_path)
    later.load("latest")
    assert (tmp_path / ".staging-old-checkpoint-9").exists(), "a reader removes nothing"
    later.save(4)
    assert visible(tmp_path) == ["checkpoint-2", "checkpoint-4", "latest"]


def test_a_link_to_a_disk_that_is_not_there_is_the_latest_and_damaged(tmp_path: Path) -> None:
    _, coordinator = saved(tmp_path, {1: 1.0, 2: 0.5})
    (tmp_path / "checkpoint-3").symlink_to(tmp_path / "unmounted")
    assert list(coordinator.steps()) == [1, 2, 3] and list(coordinator.list()) == [1, 2]
    assert "the next valid one is checkpoint-2" in str(failure_of(coordinator, "latest"))
    with pytest.raises(CheckpointError, match="checkpoint-3 is a file or a link; a checkpoint cannot be saved there"):
        coordinator.save(3)


@pytest.mark.parametrize("name", ["checkpoint-00500", "checkpoint-\u0664", "checkpoint-5.old"])
def test_a_folder_of_another_name_disturbs_nothing(name: str, tmp_path: Path) -> None:
    _, coordinator = saved(tmp_path, {1: 1.0})
    (tmp_path / name).mkdir()
    coordinator.save(2)
    assert list(coordinator.steps()) == [1, 2] and coordinator.load("latest").step == 2
