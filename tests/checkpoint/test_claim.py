"""A run claims the folder of its checkpoints: an earlier attempt that is still alive somewhere commits nothing more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from solo import boxed

from dcp_runner import CheckpointError
from dcp_runner.checkpoint.storage import Storage

TOLD = "attempt 2 has taken .* over from attempt 1, which saves nothing more"


def steps(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*checkpoint-*"))


class Interrupted(Storage):
    """Something happens between the last write and the rename."""

    def __init__(self, root: Path, happens: Callable[[], None]) -> None:
        super().__init__(root)
        self._happens = happens

    def write(self, *arguments: object) -> int:
        size = super().write(*arguments)  # type: ignore[arg-type]
        self._happens()
        return size


def test_the_last_claim_stands(tmp_path: Path) -> None:
    written: list[int] = []
    _, first = boxed(tmp_path, 1, attempt="1", storage=Interrupted(tmp_path, lambda: written.append(1)))
    first.check_storage()
    first.save(1)
    _, second = boxed(tmp_path, 2, attempt="2")
    first.save(2)  # to open a folder claims nothing
    second.check_storage()
    written.clear()
    with pytest.raises(CheckpointError, match=TOLD):
        first.save(3)
    assert not written, "it is found out before the work"
    second.save(3)
    assert steps(tmp_path) == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]
    box, reader = boxed(tmp_path)
    reader.load(3)
    assert box.state == 2


def test_a_claim_in_the_middle_of_a_save_keeps_it_from_being_committed(tmp_path: Path) -> None:
    _, second = boxed(tmp_path, 2, attempt="2")
    _, first = boxed(tmp_path, 1, attempt="1", storage=Interrupted(tmp_path, second.check_storage))
    first.check_storage()
    with pytest.raises(CheckpointError, match=TOLD):
        first.save(1)
    assert steps(tmp_path) == [], "nothing half-written stays behind either"
    second.save(1)
    assert steps(tmp_path) == ["checkpoint-1"]


def test_who_claims_nothing_saves_as_ever(tmp_path: Path) -> None:
    """Somebody's own loop, beside a run or without one."""
    _, claimed = boxed(tmp_path, 1, attempt="1")
    claimed.check_storage()
    _, other = boxed(tmp_path, 2)
    other.save(1)
    claimed.save(2)
    assert steps(tmp_path) == ["checkpoint-1", "checkpoint-2"]
