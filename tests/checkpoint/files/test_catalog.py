"""The newest checkpoint is damaged, or only cannot be read: what each way of asking for a checkpoint does then."""

from __future__ import annotations

import errno
import io
import itertools
import json
import logging
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from solo import Box, alone, boxed, header_of, resume

from dcp_runner import CheckpointCoordinator, CheckpointError, StateComponent
from dcp_runner.checkpoint.digest import hash_bytes
from dcp_runner.checkpoint.files import tensor_file
from dcp_runner.checkpoint.files.storage import MANIFEST
from dcp_runner.run.resume import ResumeError, ResumeRequest

STEPS = [2, 4, 8]


@pytest.fixture
def made(tmp_path: Path) -> tuple[Box, CheckpointCoordinator]:
    """A box that held its step at each of three saves; the loss falls."""
    box, coordinator = boxed(tmp_path)
    for step in STEPS:
        box.state = {"step": step, "t": torch.full((5,), float(step))}
        coordinator.save(step, {"eval_loss": 1 / step})
    box.state = {"step": 0, "t": torch.zeros(5)}
    return box, coordinator


Made = tuple[Box, CheckpointCoordinator]


def names(coordinator: CheckpointCoordinator) -> list[str]:
    return sorted(path.name for path in coordinator.storage.root.glob("*checkpoint-*"))


def refused(call: Callable[[], object]) -> CheckpointError:
    with pytest.raises(CheckpointError) as failure:
        call()
    return failure.value


# -- damage ------------------------------------------------------------------------------------------------------------


def flip(path: Path, place: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def in_the_place_of(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE: dict[str, Callable[[Path], object]] = {
    "truncated": lambda folder: os.truncate(folder / "box.safetensors", 10),
    "lacks a file": lambda folder: (folder / "box.safetensors").unlink(),
    "a folder in a file's place": lambda folder: in_the_place_of(folder / "box.safetensors"),
    "lacks its manifest": lambda folder: (folder / MANIFEST).unlink(),
    "a byte of the manifest": lambda folder: flip(folder / MANIFEST),
    "an empty manifest": lambda folder: os.truncate(folder / MANIFEST, 0),
    "a byte of a header": lambda folder: flip(folder / "box.safetensors", 20),
    "a byte of the data": lambda folder: flip(folder / "box.safetensors"),
    "an empty folder": lambda folder: [file.unlink() for file in folder.iterdir()],
    "another checkpoint's files": lambda folder: shutil.copytree(
        folder.with_name("checkpoint-2"), folder, dirs_exist_ok=True
    ),
}
IN_THE_DATA = ("a byte of a header", "a byte of the data")
"""No listing shows it: it is found when the file is read."""


@pytest.mark.parametrize("kind", DAMAGE)
def test_whoever_asks_for_a_damaged_one_is_told_the_next_valid_one(kind: str, made: Made) -> None:
    box, coordinator = made
    root = coordinator.storage.root
    DAMAGE[kind](root / "checkpoint-8")
    for which in ("latest", "best", 8):
        error = refused(lambda which=which: coordinator.load(which))
        assert error.types == {"IntegrityError"}, error
        assert "the next valid one is checkpoint-4" in str(error) and "resume=4" in str(error), error
        assert "resume=auto" in str(error)
    for path in (root / "checkpoint-8", f"{root}/checkpoint-8/", os.path.relpath(root / "checkpoint-8")):
        error = refused(lambda path=path: coordinator.load(path))
        assert error.types == {"IntegrityError"} and f"resume={root}/checkpoint-4" in str(error), error
    for what in (str(root), str(root / "checkpoint-8"), "latest", "best", 8):
        assert refused(lambda what=what: resume(ResumeRequest(what), coordinator)).types == {"IntegrityError"}
    assert box.state["step"] == 0 and names(coordinator) == [f"checkpoint-{step}" for step in STEPS]
    assert list(coordinator.steps()) == STEPS
    if kind in IN_THE_DATA:
        assert coordinator.latest() == root / "checkpoint-8" and list(coordinator.list()) == STEPS
    else:
        assert "checkpoint-4" in str(refused(coordinator.latest)) and list(coordinator.list()) == [2, 4]


@pytest.mark.parametrize("wish", ["auto", "must"])
@pytest.mark.parametrize("kind", DAMAGE)
def test_auto_and_must_pass_over_it_and_say_so(
    kind: str, wish: str, made: Made, caplog: pytest.LogCaptureFixture
) -> None:
    box, coordinator = made
    DAMAGE[kind](coordinator.storage.root / "checkpoint-8")
    with caplog.at_level(logging.INFO):
        report = resume(ResumeRequest(wish), coordinator)
    assert report is not None and report.step == box.state["step"] == 4
    (warned,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warned.startswith("SKIPPED checkpoint-8, which is damaged: ")
    why = warned.removeprefix("SKIPPED checkpoint-8, which is damaged: ")
    assert caplog.messages[-1] == f"RETIRED checkpoint-8: damaged: {why}" and "\n" not in why
    assert names(coordinator) == ["checkpoint-2", "checkpoint-4", f"retired-{coordinator.attempt}-checkpoint-8"]


def test_what_is_retired_is_said_with_the_reason(made: Made, caplog: pytest.LogCaptureFixture) -> None:
    _, coordinator = made
    with caplog.at_level(logging.INFO):
        resume(ResumeRequest(2), coordinator)
    assert caplog.messages == ["RETIRED checkpoint-4, checkpoint-8: abandoned, because this run continues from step 2"]


def test_nothing_is_retired_where_no_checkpoint_loads(made: Made) -> None:
    _, coordinator = made
    for step in STEPS:
        flip(coordinator.storage.path(step) / "box.safetensors")
    with pytest.raises(ResumeError, match=r"every checkpoint in .* is damaged") as failure:
        resume(ResumeRequest("auto"), coordinator)
    assert all(f"checkpoint-{step}: box.safetensors: tensor" in str(failure.value) for step in STEPS)
    assert names(coordinator) == [f"checkpoint-{step}" for step in STEPS]
    assert "no other checkpoint in" not in str(refused(lambda: coordinator.load("latest"))), "by their lists they are"
    for step in STEPS:
        (coordinator.storage.path(step) / MANIFEST).unlink()
    assert "no other checkpoint in" in str(refused(lambda: coordinator.load("latest")))


def test_the_best_is_not_known_while_a_manifest_is_damaged(made: Made) -> None:
    """It may be the best, whatever the others have."""
    _, coordinator = made
    flip(coordinator.storage.root / "checkpoint-2" / MANIFEST)
    error = refused(lambda: coordinator.load("best"))
    assert error.types == {"IntegrityError"} and f"checkpoint-2: {MANIFEST}" in str(error)
    assert "the next valid one is checkpoint-8" in str(error)
    assert coordinator.load("latest").step == 8


# -- errors that say nothing about the bytes ---------------------------------------------------------------------------

NO_DAMAGE = [errno.EIO, errno.ESTALE, errno.EACCES, errno.EMFILE]


def failing_open(patch: pytest.MonkeyPatch, name: str, number: int) -> None:
    real = os.open

    def fails(path: Any, flags: int, *more: Any, **options: Any) -> int:
        if str(path).endswith(name):
            raise OSError(number, os.strerror(number), str(path))
        return real(path, flags, *more, **options)

    patch.setattr(os, "open", fails)


def failing_listing(patch: pytest.MonkeyPatch, name: str, number: int) -> None:
    real = os.scandir

    def fails(path: Any = ".") -> Any:
        if str(path).endswith(name):
            raise OSError(number, os.strerror(number), str(path))
        return real(path)

    patch.setattr(os, "scandir", fails)


class Failing(io.BufferedReader):
    """A file that fails when its data is read, or when it is closed."""

    number, at = errno.EIO, "read"

    def readinto(self, buffer: Any) -> int:
        if self.at == "read":
            raise OSError(self.number, os.strerror(self.number))
        return super().readinto(buffer)

    def close(self) -> None:
        ours = not self.closed
        super().close()
        if self.at == "close" and ours:
            raise OSError(self.number, os.strerror(self.number))


def failing_file(at: str) -> Callable[[pytest.MonkeyPatch, str, int], None]:
    def arrange(patch: pytest.MonkeyPatch, name: str, number: int) -> None:
        kind = type("Failing", (Failing,), {"number": number, "at": at})
        patch.setattr(tensor_file, "open_regular", lambda path: kind(io.FileIO(path)))

    return arrange


WHERE: dict[str, tuple[Callable[[pytest.MonkeyPatch, str, int], None], str]] = {
    "the manifest": (failing_open, f"checkpoint-8/{MANIFEST}"),
    "a file": (failing_open, "checkpoint-8/box.safetensors"),
    "a read": (failing_file("read"), "box.safetensors"),
    "a close": (failing_file("close"), "box.safetensors"),
    "the folder": (failing_listing, "checkpoint-8"),
}


@pytest.mark.parametrize("number", NO_DAMAGE, ids=errno.errorcode.get)
@pytest.mark.parametrize("where", WHERE)
def test_what_cannot_be_read_is_no_damage(where: str, number: int, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    box, coordinator = made
    arrange, name = WHERE[where]
    with monkeypatch.context() as patch:
        arrange(patch, name, number)
        for what in ("auto", "must", "latest", "best", 8, str(coordinator.storage.root)):
            error = refused(lambda what=what: resume(ResumeRequest(what), coordinator))
            assert error.types == {"FileAccessError"}, (what, error)
            told = f"{os.strerror(number)} ({errno.errorcode[number]})"
            assert told in str(error) and "checkpoint-8" in str(error) and name in str(error), error
            assert "next valid" not in str(error) and box.state["step"] == 0
        if where in ("the manifest", "the folder"):
            assert list(coordinator.list()) == [2, 4], "it hides no other"
            assert refused(coordinator.latest).types == {"FileAccessError"}
        if where != "the folder":
            assert refused(lambda: coordinator.verify(coordinator.storage.path(8))).types == {"FileAccessError"}
    assert names(coordinator) == [f"checkpoint-{step}" for step in STEPS]
    report = resume(ResumeRequest("auto"), coordinator)
    assert report is not None and report.step == 8


def test_a_folder_of_checkpoints_that_cannot_be_listed_is_not_an_empty_one(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, coordinator = made
    failing_listing(monkeypatch, coordinator.storage.root.name, errno.ESTALE)
    for what in ("auto", "never", "must", "latest", "best", str(coordinator.storage.root)):
        assert "Stale file handle" in str(refused(lambda what=what: resume(ResumeRequest(what), coordinator)))
    assert "Stale file handle" in str(refused(coordinator.list))


def test_a_file_in_the_place_of_the_folder_is_not_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file")
    _, coordinator = boxed(tmp_path / "checkpoints", {})
    for call in (coordinator.latest, coordinator.list, coordinator.claim, lambda: coordinator.save(1)):
        assert f"{tmp_path}/checkpoints" in str(refused(call))


@pytest.fixture
def few_files() -> Iterator[Callable[[int], None]]:
    """Lets this process open only so many files more."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)

    def limit(more: int) -> None:
        taken = {int(name) for name in os.listdir("/proc/self/fd")}
        free = (number for number in itertools.count() if number not in taken)
        resource.setrlimit(resource.RLIMIT_NOFILE, (next(itertools.islice(free, more, None)), before[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_too_many_open_files_are_told_with_the_limit(few_files: Callable[[int], None], tmp_path: Path) -> None:
    boxes = [Box({"t": torch.ones(1)}) for _ in range(40)]
    coordinator = alone(tmp_path, *(StateComponent(f"box{number}", box) for number, box in enumerate(boxes)))
    coordinator.save(1)
    coordinator.save(2)
    few_files(20)
    error = refused(lambda: resume(ResumeRequest("auto"), coordinator))
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert error.types == {"FileAccessError"}
    assert f"Too many open files (EMFILE); the limit is {limit} (raise it with ulimit -n)" in str(error)
    assert names(coordinator) == ["checkpoint-1", "checkpoint-2"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user for a moment")
@pytest.mark.parametrize("name", [MANIFEST, "box.safetensors"])
def test_a_file_of_another_user_is_no_damage(name: str, made: Made) -> None:
    _, coordinator = made
    root = coordinator.storage.root
    (root / "checkpoint-8" / name).chmod(0o600)
    for folder in (root, *list(root.parents)[:3]):
        folder.chmod(0o777)
    os.seteuid(65534)
    try:
        error = refused(lambda: resume(ResumeRequest("auto"), coordinator))
    finally:
        os.seteuid(0)
    assert error.types == {"FileAccessError"} and f"{name}: cannot be read: Permission denied (EACCES)" in str(error)
    assert names(coordinator) == [f"checkpoint-{step}" for step in STEPS]


# -- a newer format ----------------------------------------------------------------------------------------------------


def seal(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a manifest as another version would write it."""
    plain = json.loads((folder / MANIFEST).read_text())
    change(plain)
    plain["digest"] = "0" * 32
    text = json.dumps(plain, indent=2).encode() + b"\n"
    (folder / MANIFEST).write_bytes(text.replace(b"0" * 32, hash_bytes(text).encode(), 1))


def newer_file(folder: Path) -> None:
    file = folder / "box.safetensors"
    data, header = file.read_bytes(), header_of(file)
    data = data.replace(header, header.replace(rb"\"format\":1", rb"\"format\":2"))
    file.write_bytes(data)
    digest = hash_bytes(data[: 8 + len(header)])
    seal(folder, lambda plain: plain["files"]["box.safetensors"].update(digest=digest))


@pytest.mark.parametrize("newer", [lambda folder: seal(folder, lambda plain: plain.update(format=2)), newer_file])
def test_a_newer_format_is_no_damage(newer: Callable[[Path], None], made: Made) -> None:
    _, coordinator = made
    newer(coordinator.storage.root / "checkpoint-8")
    for what in ("auto", "must", "latest", "best", 8, str(coordinator.storage.root)):
        error = refused(lambda what=what: resume(ResumeRequest(what), coordinator))
        assert error.types == {"NewerFormatError"} and "format 2 is newer than this version's 1" in str(error)
    assert names(coordinator) == [f"checkpoint-{step}" for step in STEPS]
