"""From which saved copy a live component gets its state."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from solo import Box, alone

from dcp_runner import CheckpointCoordinator, CheckpointError, StateComponent


def failure_of(coordinator: CheckpointCoordinator, which: Any, **options: Any) -> CheckpointError:
    with pytest.raises(CheckpointError) as failure:
        coordinator.load(which, **options)
    return failure.value


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
    assert (report.rows[0].saved, report.rows[0].current) == (was, now)

    made, coordinator = emptied(tmp_path, now, "a", a={"on_missing_copy": "fresh"})
    assert coordinator.load(7).rows[0].action == "fresh" and loaded(made) == {"a": None}

    fresh = Fresh({})
    alone(tmp_path, StateComponent("a", fresh, now, on_missing_copy="fresh")).load(7)
    assert fresh.state == {"fresh": (7, 0)}


def test_the_same_copy_under_another_pattern_is_loaded(tmp_path: Path) -> None:
    boxes(tmp_path, "global", "a")[1].save(1)
    made, coordinator = emptied(tmp_path, "replicated", "a")
    assert coordinator.load(1).rows[0].action == "loaded" and loaded(made) == {"a": "a"}
