"""Which components are loaded, and what does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
from boxes import boxes, emptied, failure_of, loaded


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
