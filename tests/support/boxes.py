"""Two small components, and how a load of them fails."""

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
