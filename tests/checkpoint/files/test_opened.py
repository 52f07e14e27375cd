"""A checkpoint opened for reading: each file once, and what has been read is not read again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from solo import boxed

from dcp_runner.checkpoint.errors import IntegrityError
from dcp_runner.checkpoint.files.integrity import valid_checkpoint
from dcp_runner.checkpoint.files.opened import OpenedCheckpoint
from dcp_runner.checkpoint.files.tensor_file import TensorFile

NAME = "box.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    def add(folder: Path) -> None:
        (folder / "notes.txt").write_text("added")

    return boxed(tmp_path, {"a": torch.ones(3), "b": torch.ones(3)})[1].save(1, add_files=add)


def opened(folder: Path) -> OpenedCheckpoint:
    return OpenedCheckpoint(folder, valid_checkpoint(folder).manifest)


def test_a_file_is_opened_once_and_closed_at_the_end(folder: Path) -> None:
    with opened(folder) as checkpoint:
        (first,), (second,) = checkpoint.open([NAME]), checkpoint.open([NAME])
        assert first is second
        buffer = memoryview(bytearray(12))
        first.read("a", 0, buffer)
    with pytest.raises(ValueError, match="closed file"):
        first.read("a", 0, buffer)


def test_only_what_has_not_been_read_is_read_for_the_check(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    real = TensorFile._fill

    def counting(file: TensorFile, name: str, number: int, block: Any) -> None:
        read.append(name)
        real(file, name, number, block)

    monkeypatch.setattr(TensorFile, "_fill", counting)
    with opened(folder) as checkpoint:
        checkpoint.open([NAME])[0].read("a", 0, memoryview(bytearray(12)))
        checkpoint.check([NAME, "notes.txt"])
    assert read == ["a", "b"]


@pytest.mark.parametrize("name", [NAME, "notes.txt"])
def test_a_damaged_file_is_named_whether_opened_or_not(name: str, folder: Path) -> None:
    data = bytearray((folder / name).read_bytes())
    data[-1] ^= 1
    (folder / name).write_bytes(data)
    for first in ([], [NAME]):
        with opened(folder) as checkpoint, pytest.raises(IntegrityError, match=name):
            checkpoint.open(first)
            checkpoint.check([NAME, "notes.txt"])


def test_nothing_stays_open_where_one_of_several_is_missing(folder: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with opened(folder) as checkpoint, pytest.raises(IntegrityError, match=f"{NAME}: is missing"):
        (folder / NAME).unlink()
        checkpoint.open([NAME])
    assert len(os.listdir("/proc/self/fd")) == before
