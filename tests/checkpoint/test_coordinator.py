"""Which checkpoint is loaded, and what the error says where it cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from solo import Box, alone, boxed

from dcp_runner import CheckpointCoordinator, CheckpointError, StateComponent
from dcp_runner.checkpoint.files.storage import MANIFEST


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


LOSSES: dict[int, float | None] = {100: 3.0, 20: 1.0, 300: 2.0, 9: None}


@pytest.mark.parametrize(
    ("which", "step"),
    [
        ("latest", 300),
        ("best", 20),
        (9, 9),
        ("100", 100),
        (Path("20"), 20),
        ("{root}/checkpoint-100", 100),
        ("{root}/latest", 9),
    ],
)
def test_what_is_asked_for_is_loaded(which: Any, step: int, tmp_path: Path) -> None:
    """`latest` is the highest step; the link of that name is for people, and points to the last one saved."""
    box, coordinator = saved(tmp_path, LOSSES)
    report = coordinator.load(which.format(root=tmp_path) if isinstance(which, str) else which)
    assert report.step == box.state["step"] == step
    assert coordinator.latest() == tmp_path / "checkpoint-300" and list(coordinator.list()) == [9, 20, 100, 300]


@pytest.mark.parametrize(
    ("losses", "mode", "step"),
    [
        ({1: 3.0, 2: 1.0, 3: 2.0}, "min", 2),
        ({1: 3.0, 2: 1.0, 3: 2.0}, "max", 1),
        ({1: 1.0, 2: 1.0, 3: 2.0}, "min", 2),
        ({1: 2.0, 2: 2.0, 3: 1.0}, "max", 2),
        ({1: float("nan"), 2: 5.0, 3: float("nan")}, "min", 2),
        ({1: float("nan"), 2: 5.0, 3: float("inf")}, "min", 2),
        ({1: 4.0, 2: float("-inf"), 3: float("nan")}, "max", 1),
        ({1: None, 2: 7.0, 3: None}, "max", 2),
    ],
)
def test_the_best_is_the_newest_of_the_best_and_never_nan(losses: Any, mode: Any, step: int, tmp_path: Path) -> None:
    _, coordinator = saved(tmp_path, losses, best=("eval_loss", mode))
    assert coordinator.load("best").step == step


def test_what_is_not_there_is_said_with_what_is(tmp_path: Path) -> None:
    box, coordinator = boxed(tmp_path / "runs", {})
    assert coordinator.latest() is None and coordinator.list() == {} and list(coordinator.steps()) == []
    for which in ("latest", "best"):
        assert f"there is no checkpoint in {tmp_path / 'runs'}" in str(failure_of(coordinator, which))
    assert "there is no checkpoint-7" in str(failure_of(coordinator, 7)) and "there are: none" in str(
        failure_of(coordinator, "7")
    )
    coordinator.save(1, {"accuracy": 1.0})
    coordinator.save(5)
    assert "there are: 1, 5" in str(failure_of(coordinator, 7))
    assert "has the metric 'eval_loss'" in str(failure_of(coordinator, "best"))
    for path in (tmp_path, tmp_path / "nowhere", "newest"):
        error = failure_of(coordinator, path)
        assert f"{path} is no checkpoint: it has no {MANIFEST}" in str(error) and error.types == {
            "MissingCheckpointError"
        }
        missing = f"{MANIFEST}: is missing" if path == tmp_path else f"there is no checkpoint {path}"
        with pytest.raises(CheckpointError, match=missing):
            coordinator.verify(path)
    assert box.state == {}


def test_metadata_that_is_no_json_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="component 'box': metadata is not JSON"):
        alone(tmp_path, StateComponent("box", Box(), metadata={"what": object()}))
