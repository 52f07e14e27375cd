"""From which saved copy a live component gets its state."""

from __future__ import annotations

from pathlib import Path

import pytest
from boxes import boxes, emptied, failure_of, loaded
from solo import Box, alone

from dcp_runner import StateComponent


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
