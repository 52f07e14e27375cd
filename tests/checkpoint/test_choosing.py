"""Which checkpoint is loaded, what of it, and what is said where it cannot be."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from solo import Box, alone, bits, boxed, visible

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


# -- which components --------------------------------------------------------------------------------------------------


def boxes(
    folder: Path, sharing: str = "replicated", keys: Iterable[str] = "ab", **more: dict[str, Any]
) -> tuple[dict[str, Box], CheckpointCoordinator]:
    """Boxes a and b with states of their names; `more` are arguments of their components."""
    made = {key: Box({"of": key}) for key in keys}
    return made, alone(folder, *(StateComponent(key, box, sharing, **more.get(key, {})) for key, box in made.items()))


def loaded(boxes: dict[str, Box]) -> dict[str, Any]:
    return {key: box.state.get("of") for key, box in boxes.items()}


def emptied(
    folder: Path, sharing: str = "replicated", keys: Iterable[str] = "ab", **more: dict[str, Any]
) -> tuple[dict[str, Box], CheckpointCoordinator]:
    made, coordinator = boxes(folder, sharing, keys, **more)
    for box in made.values():
        box.state = {}
    return made, coordinator


def test_what_is_skipped_stays_as_it_is(tmp_path: Path) -> None:
    boxes(tmp_path)[1].save(1)
    made, coordinator = emptied(tmp_path)
    report = coordinator.load(1, skip=["a"])
    assert loaded(made) == {"a": None, "b": "b"}
    assert [(row.component, row.action) for row in report.rows] == [("a", "unchanged (skipped)"), ("b", "loaded")]


@pytest.mark.parametrize(("option", "done"), [("skip", "skip"), ("fresh", "reset")])
def test_a_name_that_no_component_has_cannot_be_left_out(option: str, done: str, tmp_path: Path) -> None:
    _, coordinator = emptied(tmp_path, keys=["model", "other"])
    coordinator.save(1)
    error = failure_of(coordinator, 1, **{option: ["modle"]})
    assert error.types == {"MismatchError"} and f"no component 'modle' to {done}; did you mean `model`?" in str(error)


def test_a_component_that_the_checkpoint_lacks_is_an_error_unless_it_is_not_required(tmp_path: Path) -> None:
    boxes(tmp_path, keys="a")[1].save(1)
    made, coordinator = emptied(tmp_path)
    for strict in (True, False):
        error = failure_of(coordinator, 1, strict=strict)
        assert (
            error.types == {"MismatchError"}
            and "component b" in str(error)
            and "is not in the checkpoint" in str(error)
        )
    assert loaded(made) == {"a": None, "b": None}
    coordinator.load(1, skip=["b"])
    made, coordinator = emptied(tmp_path, b={"required": False})
    report = coordinator.load(1)
    assert loaded(made) == {"a": "a", "b": None} and report.rows[1].action == "unchanged (not in the checkpoint)"


def test_a_component_that_nothing_here_takes_is_an_error_unless_not_strict(tmp_path: Path) -> None:
    boxes(tmp_path)[1].save(1)
    made, coordinator = emptied(tmp_path, keys="a")
    error = failure_of(coordinator, 1)
    assert (
        error.types == {"MismatchError"}
        and "a component b that this run does not have" in str(error)
        and loaded(made) == {"a": None}
    )
    report = coordinator.load(1, strict=False)
    assert loaded(made) == {"a": "a"} and "component b" in report.accepted[0]


class Fresh(Box):
    """Notes what it is told when it starts afresh."""

    def reset(self, step: int, rank: int) -> None:
        self.state = {"fresh": (step, rank)}


@pytest.mark.parametrize(
    ("was", "now"), [("global", "per_rank"), ("per_rank", "replicated"), ("replicated", "per_node")]
)
def test_other_copies_are_an_error_or_fresh_or_the_first(was: str, now: str, tmp_path: Path) -> None:
    boxes(tmp_path, was, "a")[1].save(7)
    made, coordinator = emptied(tmp_path, now, "a")
    error = failure_of(coordinator, 7)
    assert (
        error.types == {"MismatchError"}
        and "component 'a': the checkpoint was saved with different copies: missing " in str(error)
        and loaded(made) == {"a": None}
    )
    assert "on_missing_copy" in str(failure_of(coordinator, 7, strict=False))

    made, coordinator = emptied(tmp_path, now, "a", a={"on_missing_copy": "first"})
    report = coordinator.load(7)
    assert loaded(made) == {"a": "a"} and report.rows[0].action.startswith("loaded from ")
    assert (report.rows[0].saved, report.rows[0].here) == (was, now)

    made, coordinator = emptied(tmp_path, now, "a", a={"on_missing_copy": "fresh"})
    assert coordinator.load(7).rows[0].action == "fresh" and loaded(made) == {"a": None}

    fresh = Fresh({})
    alone(tmp_path, StateComponent("a", fresh, now, on_missing_copy="fresh")).load(7)
    assert fresh.state == {"fresh": (7, 0)}


def test_the_same_copy_under_another_pattern_is_loaded(tmp_path: Path) -> None:
    boxes(tmp_path, "global", "a")[1].save(1)
    made, coordinator = emptied(tmp_path, "replicated", "a")
    assert coordinator.load(1).rows[0].action == "loaded" and loaded(made) == {"a": "a"}


def test_fresh_on_demand(tmp_path: Path) -> None:
    box = Fresh({"of": "a"})
    coordinator = alone(tmp_path, StateComponent("a", box))
    coordinator.save(3)
    coordinator.load(3, fresh=["a"])
    assert box.state == {"fresh": (3, 0)}


class Stubborn(Box):
    def load_state_dict(self, state: Any) -> None:
        raise RuntimeError("no, thank you")


def test_an_object_that_fails_to_load_is_told_in_its_own_words(tmp_path: Path) -> None:
    box = Stubborn({})
    coordinator = alone(tmp_path, StateComponent("a", box))
    coordinator.save(1)
    error = failure_of(coordinator, 1)
    assert error.phase == "apply" and "RuntimeError: no, thank you" in str(error)


def test_nothing_changes_where_one_of_several_components_does_not_fit(tmp_path: Path) -> None:
    boxes(tmp_path, "replicated", "ab")[1].save(1)
    made = {"a": Box({}), "b": Box({})}
    coordinator = alone(tmp_path, StateComponent("a", made["a"]), StateComponent("b", made["b"], "per_rank"))
    failure_of(coordinator, 1)
    assert bits([box.state for box in made.values()]) == bits([{}, {}])


@pytest.mark.parametrize(
    ("step", "metrics", "told"),
    [
        (-1, {}, "a step is a whole number from 0 on; found -1"),
        (1.0, {}, "found 1.0"),
        (1, {"loss": "low"}, "metrics are numbers that fit a float, by name; 'loss' is 'low'"),
        (1, {"loss": [1]}, "'loss' is [1]"),
        (1, {"fine": 1.0, "loss": 10**400, "speed": 10**9999}, "'loss' is a whole number of 1329 bits, 'speed' is a"),
        (1, {"loss": 1j, "x": np.complex64(1)}, "'loss' is 1j, 'x' is "),
        (1, {"loss": torch.zeros(2)}, "'loss' is tensor("),
        (1, {"loss": torch.empty((), device="meta")}, "'loss' is tensor("),
        (1, {1: 0.5}, "1 is 0.5"),
        (1, {"loss": None}, "'loss' is None"),
        ("1", {}, "found '1'"),
        (True, {}, "found True"),
        (torch.tensor(1.0), {}, "found tensor(1.)"),
    ],
)
def test_what_cannot_be_recorded_is_refused_before_anything_is_written(
    step: Any, metrics: Any, told: str, tmp_path: Path
) -> None:
    _, coordinator = boxed(tmp_path, {"x": 1})
    written: list[Path] = []
    with pytest.raises(RuntimeError, match=re.escape(told)):
        coordinator.save(step, metrics, add_files=written.append)
    assert coordinator.list() == {} and not written


@pytest.mark.parametrize("value", [torch.tensor(0.5), np.float32(0.5), np.float64(0.5), np.array(0.5), 0.5])
def test_a_metric_may_be_any_single_number(value: Any, tmp_path: Path) -> None:
    _, coordinator = boxed(tmp_path, {"x": 1})
    coordinator.save(1, {"loss": value, "steps": 2**60})
    assert coordinator.list()[1].metrics == {"loss": 0.5, "steps": float(2**60)}


@pytest.mark.parametrize("step", [np.int64(7), np.uint8(7), torch.tensor(7), 7])
def test_a_step_may_be_any_whole_number(step: Any, tmp_path: Path) -> None:
    _, coordinator = boxed(tmp_path, {"x": 1})
    assert coordinator.save(step, {"loss": 0.5}) == tmp_path / "checkpoint-7"
    assert coordinator.load(7).step == 7 and list(coordinator.list()) == [7]
    with pytest.raises(CheckpointError, match="checkpoint-7 is a committed checkpoint"):
        coordinator.save(step)


def test_metadata_that_is_no_json_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="component 'box': metadata is not JSON"):
        alone(tmp_path, StateComponent("box", Box(), metadata={"what": object()}))


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


def test_a_model_on_the_meta_device_takes_nothing(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 2)
    alone(tmp_path, StateComponent("model", model)).save(1)
    live = torch.nn.Linear(2, 2, device="meta")
    assert "weight: on the meta device here" in str(failure_of(alone(tmp_path, StateComponent("model", live)), 1))
