"""Why a folder cannot be made or written, in words for people."""

from __future__ import annotations

from pathlib import Path

import pytest

from dcp_runner.common.folders import unwritable


def obstacles(here: Path) -> dict[str, str]:
    """Folder -> why it cannot be made."""
    (here / "file").touch()
    (here / "dead").symlink_to("nowhere")
    (here / "loop").symlink_to("loop")
    long = "n" * 300
    return {
        "file": f"{here}/file is not a folder",
        "file/below/it": f"{here}/file is not a folder",
        "dead": f"{here}/dead is a broken link",
        "dead/below": f"{here}/dead is a broken link",
        "loop/below": f"{here}/loop/below: Too many levels of symbolic links",
        long: f"{here}/{long}: File name too long",
        "/proc/x": "/proc: No such file or directory",
    }


def test_folders_that_cannot_be_made(tmp_path: Path) -> None:
    expected = obstacles(tmp_path)
    assert {folder: unwritable(tmp_path / folder) for folder in expected} == expected


def test_folders_that_can(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    for folder in ("real", "link", "link/x", "new/x/y"):
        assert unwritable(tmp_path / folder) is None
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["link", "real"], "nothing is made for a look"


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`/dev/full` takes no byte."""
    monkeypatch.setattr("dcp_runner.common.folders.TemporaryFile", lambda dir: open("/dev/full", "wb"))  # noqa: SIM115
    assert unwritable(tmp_path / "x") == f"{tmp_path}: No space left on device"
