"""What an error of the file system means, with the path and the cause."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from dcp_runner.common.errors import FileAccessError
from dcp_runner.common.files import cause, is_there, sync, unwritable, writing


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(errno.EIO, "Input/output error"), "Input/output error (EIO)"),
        (OSError(errno.EEXIST, "File exists"), "another file, a folder or a broken link is at this path (EEXIST)"),
        (OSError("a text alone"), "a text alone"),
        (OSError(9999, "what nothing knows"), "what nothing knows (9999)"),
    ],
)
def test_the_cause(error: OSError, text: str) -> None:
    assert cause(error) == text
    assert str(unwritable("here", error)) == f"here: cannot be written: {text}"


def test_too_many_open_files_come_with_the_remedy() -> None:
    assert cause(OSError(errno.EMFILE, os.strerror(errno.EMFILE))).endswith("(raise it with ulimit -n)")


def test_an_error_of_a_write_has_its_path(tmp_path: Path) -> None:
    with pytest.raises(FileAccessError, match=f"{tmp_path}: cannot be written: Is a directory"), writing(tmp_path):
        tmp_path.write_text("x")
    with pytest.raises(KeyError), writing(tmp_path):
        raise KeyError("no error of a file")


def test_a_path_that_cannot_be_looked_at_is_an_error(tmp_path: Path) -> None:
    assert is_there(tmp_path) and not is_there(tmp_path / "x") and not is_there(tmp_path / "x/y")
    with pytest.raises(OSError, match="File name too long"):
        is_there(tmp_path / ("n" * 300))


def test_a_folder_and_a_file_are_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda number: flushed.append(os.readlink(f"/proc/self/fd/{number}")))
    (tmp_path / "file").touch()
    sync(tmp_path / "file")
    sync(tmp_path)
    assert flushed == [str(tmp_path / "file"), str(tmp_path)]
