"""When a configuration plans a save."""

from __future__ import annotations

from typing import Any

import pytest

from dcp_runner.checkpoint.config import CheckpointConfig

NEVER: dict[str, Any] = {"every_steps": None, "every_minutes": None, "at_end": False}


@pytest.mark.parametrize(
    ("options", "saves"),
    [({}, False), ({"every_steps": 1}, True), ({"every_minutes": 0.5}, True), ({"at_end": True}, True)],
)
def test_any_of_the_three_rules_plans_a_save(options: dict[str, Any], saves: bool) -> None:
    assert CheckpointConfig(**NEVER | options).saves is saves
