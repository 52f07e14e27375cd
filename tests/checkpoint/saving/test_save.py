"""Files beside ours: those that a save was given are part of the checkpoint; those that came later are never read."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from solo import boxed, resume, visible

from dcp_runner import CheckpointError
from dcp_runner.checkpoint.files.storage import MANIFEST
from dcp_runner.run.resume import ResumeRequest

LATER: dict[str, Callable[[Path], object]] = {
    "config.json": lambda path: path.write_text("{}"),
    "model.pt": lambda path: path.write_bytes(b"\x80"),
    "deep/er/x.safetensors": lambda path: path.write_bytes(b""),
    ".hidden": lambda path: path.write_bytes(b""),
    f"{MANIFEST}.bak": lambda path: path.write_bytes(b""),
    "link": lambda path: path.symlink_to("box.safetensors"),
    "link to nothing": lambda path: path.symlink_to("nowhere"),
    "link to a folder": lambda path: path.symlink_to("/etc"),
    "pipe": os.mkfifo,
}


@pytest.mark.parametrize("name", LATER)
def test_a_file_that_came_later_is_told_once_and_is_no_reason_to_refuse(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    box, coordinator = boxed(tmp_path, {"step": 1})
    for step in (1, 2):
        path = coordinator.save(step, {"eval_loss": 1.0}) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        LATER[name](path)
    for what in ("auto", "must", "latest", "best", 2, str(tmp_path)):
        caplog.clear()
        box.state = None
        report = resume(ResumeRequest(what), coordinator)
        assert report is not None and report.step == 2 and box.state == {"step": 1}
        (told,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        assert told == f"checkpoint-2: not listed in its manifest, and so not read: {name}"
    assert coordinator.latest() == tmp_path / "checkpoint-2" and list(coordinator.list()) == [1, 2]
    with pytest.raises(CheckpointError, match=f"{name} is not listed in the manifest") as failure:
        coordinator.verify(tmp_path / "checkpoint-2")
    assert failure.value.types == {"IntegrityError"}
    assert os.path.lexists(path), "it is left where it is"


def test_verify_names_what_is_not_listed_and_what_is_damaged_at_once(tmp_path: Path) -> None:
    _, coordinator = boxed(tmp_path, {"t": torch.ones(3)})
    path = coordinator.save(1)
    data = bytearray((path / "box.safetensors").read_bytes())
    data[-1] ^= 1
    (path / "box.safetensors").write_bytes(data)
    (path / "extra").touch()
    with pytest.raises(CheckpointError, match=r"box\.safetensors: tensor .*; extra is not listed"):
        coordinator.verify(path)


def tokenizer(folder: Path) -> None:
    """What people of Hugging Face keep beside the weights."""
    (folder / "config.json").write_text('{"model_type": "own"}')
    (folder / "tokenizer" / "deep").mkdir(parents=True)
    (folder / "tokenizer" / "deep" / "vocab.txt").write_text("a\nb\n")
    (folder / "tokenizer" / "empty").touch()
    save_file({"w": torch.arange(4.0)}, folder / "adapter.safetensors")


ADDED = ["adapter.safetensors", "config.json", "tokenizer/deep/vocab.txt", "tokenizer/empty"]


def test_files_that_a_save_was_given_are_part_of_the_checkpoint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    box, coordinator = boxed(tmp_path / "run", {"step": 1})
    path = coordinator.save(1, add_files=tokenizer)
    assert [name for name in coordinator.verify(path).files if name != "box.safetensors"] == ADDED
    copied = shutil.copytree(path, tmp_path / "elsewhere")
    shutil.rmtree(path)
    coordinator.verify(copied)
    coordinator.load(copied)
    assert box.state == {"step": 1} and not caplog.records
    assert load_file(copied / "adapter.safetensors")["w"].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("name", [name for name in ADDED if name != "tokenizer/empty"])
@pytest.mark.parametrize("change", ["a byte", "a missing file"])
def test_they_are_checked_as_ours_are(change: str, name: str, tmp_path: Path) -> None:
    _, coordinator = boxed(tmp_path, {"step": 1})
    file = coordinator.save(1, add_files=tokenizer) / name
    if change == "a byte":
        file.write_bytes(file.read_bytes()[:-1] + b"?")
    else:
        file.unlink()
    for call in (lambda: coordinator.load(1), lambda: coordinator.verify(file.parents[name.count("/")])):
        with pytest.raises(CheckpointError, match=name) as failure:
            call()
        assert failure.value.types == {"IntegrityError"}


def raises(folder: Path) -> None:
    (folder / "config.json").touch()
    raise KeyError("model_type")


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "it raises": (raises, "KeyError: 'model_type'"),
    "a name of ours": (lambda folder: (folder / "box.safetensors").touch(), "box.safetensors: cannot be written: another"),
    "a folder of our name": (lambda folder: (folder / "box.safetensors").mkdir(), "another file, a folder"),
    "the manifest's name": (lambda folder: (folder / MANIFEST).touch(), f"{MANIFEST}: cannot be written: another"),
    "a link out": (lambda folder: (folder / "x").symlink_to("/etc/passwd"), "regular files only; found x"),
    "a link to a folder": (lambda folder: (folder / "x").symlink_to("/etc"), "regular files only; found x"),
    "a link of our name": (lambda folder: (folder / "box.safetensors").symlink_to("/elsewhere/x"), "regular files only"),
    "a pipe": (lambda folder: os.mkfifo(folder / "x"), "regular files only; found x"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_added_fails_the_save_and_nothing_is_committed(kind: str, tmp_path: Path) -> None:
    _, coordinator = boxed(tmp_path, {"step": 1})
    add, told = REFUSED[kind]
    with pytest.raises(CheckpointError) as failure:
        coordinator.save(1, add_files=add)
    assert told in str(failure.value), failure.value
    assert visible(tmp_path) == []
    coordinator.verify(coordinator.save(1, add_files=tokenizer))


def test_all_is_on_the_disk_before_the_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file, theirs too, every folder that leads to it, and every one that had to be made above."""
    flushed: set[str] = set()
    real = os.rename

    def rename(source: Path, target: Path) -> None:
        named = Path(target).name
        if named.startswith(("checkpoint-", ".owner-")):
            assert {str(path) for path in (source, *source.rglob("*"))} <= flushed
        real(source, target)

    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.add(os.readlink(f"/proc/self/fd/{descriptor}")))
    monkeypatch.setattr(os, "rename", rename)
    root = tmp_path / "outputs" / "run" / "checkpoints"
    boxed(root, {"step": 1})[1].save(1, add_files=tokenizer)
    above = {str(folder) for folder in (root, *root.parents) if tmp_path in (folder, *folder.parents)}
    assert above <= flushed
    flushed.clear()
    boxed(root)[1].claim()
    assert above - {str(root)} <= flushed, "where others have made them too, at the start of a run"
