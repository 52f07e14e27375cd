"""A checkpoint that another process deletes while it is read is missing, and not damaged, whenever that happens."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from solo import Box, alone, resume

from dcp_runner import CheckpointCoordinator, CheckpointError, StateComponent
from dcp_runner.checkpoint.errors import IntegrityError, MissingCheckpointError
from dcp_runner.checkpoint.files.access import DeletionGuard, open_regular, reading
from dcp_runner.checkpoint.files.storage import MANIFEST, Storage
from dcp_runner.common.errors import FileAccessError
from dcp_runner.run.resume import ResumeRequest

CALLS = ("open", "scandir", "stat", "lstat")
Event = Callable[[], object]


@contextmanager
def before_access(number: int, event: Event, below: Path) -> Iterator[list[str]]:
    """Call `event` before access number `number` to a path below a folder, or to the folder above it; the accesses."""
    seen: list[str] = []
    busy = False

    def counting(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(path: Any = ".", *more: Any, **options: Any) -> Any:
            nonlocal busy
            if not busy and isinstance(path, str | Path) and str(path).startswith(str(below)):
                if len(seen) == number:
                    busy = True
                    event()
                    busy = False
                seen.append(f"{name} {path}")
            return real(path, *more, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, counting(name))
        yield seen


def saved(root: Path) -> tuple[dict[str, Box], CheckpointCoordinator]:
    """Two components in checkpoints of steps 2 and 8, the latter being the best."""
    boxes = {key: Box({"t": torch.ones(5), "step": 0}) for key in "ab"}
    coordinator = alone(root, *(StateComponent(key, box) for key, box in boxes.items()))
    for step in (2, 8):
        for box in boxes.values():
            box.state["step"] = step
        coordinator.save(step, {"eval_loss": 1 / step})
    for box in boxes.values():
        box.state = {"t": torch.zeros(5), "step": 0}
    return boxes, coordinator


def steps_of(boxes: dict[str, Box]) -> list[int]:
    return [box.state["step"] for box in boxes.values()]


def other_run(root: Path, step: int) -> Path:
    """A checkpoint of the same components with other contents."""
    coordinator = alone(root, *(StateComponent(key, Box({"t": torch.full((5,), 9.0), "step": 9})) for key in "ab"))
    return coordinator.save(step, {"eval_loss": 0.0})


READS: dict[str, Callable[[CheckpointCoordinator, Path], object]] = {
    "a step": lambda coordinator, root: coordinator.load(8),
    "latest": lambda coordinator, root: coordinator.load("latest"),
    "best": lambda coordinator, root: coordinator.load("best"),
    "a path": lambda coordinator, root: coordinator.load(root / "checkpoint-8"),
    "verify": lambda coordinator, root: coordinator.verify(root / "checkpoint-8"),
    "which is the latest": lambda coordinator, root: coordinator.latest(),
    "auto": lambda coordinator, root: resume(ResumeRequest("auto"), coordinator),
    "list": lambda coordinator, root: coordinator.list(),
    "metrics": lambda coordinator, root: coordinator.metrics(),
}


QUICK = [("a step", "deleted")]


@pytest.mark.parametrize(
    ("read", "how"),
    [
        pytest.param(read, how, marks=[] if (read, how) in QUICK else pytest.mark.slow)
        for read in READS
        for how in ("deleted", "replaced")
    ],
)
def test_a_checkpoint_that_is_deleted_at_any_moment_is_not_damaged(read: str, how: str, tmp_path: Path) -> None:
    done = False

    def delete() -> None:
        nonlocal done
        done = True
        if how == "deleted":
            Storage(root).discard(root / "checkpoint-8")
        else:  # retired, as by a run that goes back, and saved again
            os.rename(root / "checkpoint-8", root / "retired-1-checkpoint-8")
            os.rename(prepared, root / "checkpoint-8")

    missing = number = 0
    while done or number == 0:
        done, root = False, tmp_path / str(number)
        boxes, coordinator = saved(root)
        prepared = other_run(tmp_path / "other", 8)
        with before_access(number, delete, root) as seen:
            try:
                READS[read](coordinator, root)
                assert steps_of(boxes) in ([0, 0], [2, 2], [8, 8], [9, 9])
            except CheckpointError as error:
                assert read not in ("auto", "list", "metrics"), (number, seen, error)
                assert error.types == {"MissingCheckpointError"}, (number, seen, error)
                missing += "was deleted while it was being read" in str(error)
                assert steps_of(boxes) == [0, 0]
        number += 1
        shutil.rmtree(root)
        shutil.rmtree(tmp_path / "other", ignore_errors=True)
    assert number > 4
    assert missing or read in ("auto", "list", "metrics", "which is the latest")


def test_auto_takes_the_next_one_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    boxes, coordinator = saved(tmp_path)
    real = coordinator.load

    def delete_first(which: Any, **options: Any) -> Any:
        Storage(tmp_path).discard(tmp_path / "checkpoint-8")
        return real(which, **options)

    coordinator.load = delete_first  # type: ignore[method-assign]
    caplog.set_level("INFO")
    report = resume(ResumeRequest("auto"), coordinator)
    assert report is not None and report.step == 2 and steps_of(boxes) == [2, 2]
    assert "SKIPPED checkpoint-8, which another process has deleted meanwhile" in caplog.messages


def test_where_all_have_been_deleted_auto_looks_for_newer_ones(tmp_path: Path) -> None:
    boxes, coordinator = saved(tmp_path)
    real = coordinator.load

    def replace_all(which: Any, **options: Any) -> Any:
        if (tmp_path / "checkpoint-2").exists():
            os.rename(tmp_path / "checkpoint-8", tmp_path / ".kept")
            Storage(tmp_path).discard(tmp_path / "checkpoint-2")
            shutil.rmtree(tmp_path / ".kept")
            os.rename(other_run(tmp_path / "other", 9), tmp_path / "checkpoint-9")
        return real(which, **options)

    coordinator.load = replace_all  # type: ignore[method-assign]
    report = resume(ResumeRequest("auto"), coordinator)
    assert report is not None and report.step == 9 and steps_of(boxes) == [9, 9]


# -- the guard itself --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [IntegrityError("bytes"), FileAccessError("stale handle")])
def test_the_guard_turns_only_errors_of_what_is_gone(error: Exception, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-1"
    folder.mkdir()
    guard = DeletionGuard(folder)
    with pytest.raises(type(error), match=str(error)), guard:
        raise error
    with pytest.raises(ValueError, match="ours"), guard:
        raise ValueError("ours")
    folder.rename(tmp_path / "retired")
    with pytest.raises(ValueError, match="ours"), guard:
        raise ValueError("ours")
    with (
        pytest.raises(MissingCheckpointError, match="checkpoint-1 was deleted while it was being read") as failure,
        guard,
    ):
        raise error
    assert failure.value.__cause__ is error
    folder.mkdir()
    with pytest.raises(MissingCheckpointError), guard:
        raise error


def test_what_was_never_there_or_cannot_be_seen_is_not_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingCheckpointError, match="there is no checkpoint"):
        DeletionGuard(tmp_path / "never")
    (tmp_path / "link").symlink_to(tmp_path / "unmounted")
    with pytest.raises(IntegrityError), DeletionGuard(tmp_path / "link"):
        raise IntegrityError("missing")
    (tmp_path / "folder").mkdir()
    guard = DeletionGuard(tmp_path / "folder")

    def fails(path: Any) -> Any:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "scandir", fails)
    for other in (guard, DeletionGuard(tmp_path / "folder")):
        with pytest.raises(IntegrityError), other:
            raise IntegrityError("missing")


def test_reading_names_the_file_and_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    os.mkfifo(tmp_path / "pipe")
    for name, words in {
        "absent": "a/absent: is missing", "folder": "is a folder", "link": "is a link or a special file",
        "pipe": "is a link or a special file", "folder/x": "is missing",
    }.items():  # fmt: skip
        with pytest.raises(IntegrityError, match=words), reading(tmp_path / name, f"a/{name}"):
            with open_regular(tmp_path / name) as file:
                file.read()
    with pytest.raises(FileAccessError, match=r"/x: cannot be read: Permission denied \(EACCES\)"):
        with reading(tmp_path / "x", MANIFEST):
            raise PermissionError(13, "Permission denied")
