"""Links are for people: where there can be none, or a folder stands in their place, everything goes on without them."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from solo import boxed, resume, visible

from dcp_runner.common.links import point
from dcp_runner.common.run_dir import new_attempt
from dcp_runner.run.resume import ResumeRequest


def copied_with_links_followed(source: Path, target: Path) -> Path:
    """As `cp -rL` does."""
    return Path(shutil.copytree(source, target, symlinks=False))


def test_a_run_folder_that_was_copied_with_links_followed_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    new_attempt(run, {"config.yaml": "a: 1\n"})
    boxed(run / "checkpoints", {"step": 1})[1].save(1)
    copy = copied_with_links_followed(run, tmp_path / "copy")
    assert not (copy / ".hydra").is_symlink() and not (copy / "checkpoints" / "latest").is_symlink()
    (copy / "checkpoints" / "latest" / "own notes").touch()

    assert new_attempt(copy, {"config.yaml": "a: 2\n"}) == 2
    box, coordinator = boxed(copy / "checkpoints")
    report = resume(ResumeRequest("auto"), coordinator)
    assert report is not None and report.step == 1 and box.state == {"step": 1}
    for step in (2, 3):
        coordinator.save(step)
    assert coordinator.latest() == copy / "checkpoints" / "checkpoint-3"
    assert caplog.messages == [
        f"{link} does not point to the newest one: {link.name} is no link there, and is left as it is"
        for link in (copy / ".hydra", copy / "checkpoints" / "latest")
    ], "once each"
    assert (copy / ".hydra" / "config.yaml").read_text() == "a: 1\n"
    assert (copy / "attempts" / "2" / ".hydra" / "config.yaml").read_text() == "a: 2\n"
    left = visible(copy / "checkpoints")
    assert left == ["checkpoint-1", "checkpoint-2", "checkpoint-3", "latest"]
    assert (copy / "checkpoints" / "latest" / "own notes").exists(), "a folder is never deleted"


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP, errno.ENOSPC])
def test_a_file_system_without_links(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def symlink(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "symlink", symlink)
    run = tmp_path / "run"
    assert [new_attempt(run, {"config.yaml": "a: 1\n"}) for _ in range(2)] == [1, 2]
    _, coordinator = boxed(run / "checkpoints", {"step": 1})
    for step in (1, 2):
        assert coordinator.save(step).name == f"checkpoint-{step}"
    assert coordinator.load("latest").step == 2
    why = f"{os.strerror(number)} ({errno.errorcode[number]})"
    links = (run / ".hydra", run / "checkpoints" / "latest")
    assert caplog.messages == [f"{link} does not point to the newest one: {why}" for link in links], "once each"
    assert visible(run / "checkpoints") == ["checkpoint-1", "checkpoint-2"]
    assert sorted(os.listdir(run)) == ["attempts", "checkpoints", "logs"]


@pytest.mark.parametrize("target", ["nowhere", "/etc"])
def test_a_link_that_stands_there_is_replaced_wherever_it_points(target: str, tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to(target)
    (tmp_path / ".latest").symlink_to("left behind by a kill")
    point(tmp_path / "latest", "checkpoint-5", beside=tmp_path / ".latest")
    assert os.readlink(tmp_path / "latest") == "checkpoint-5" and os.listdir(tmp_path) == ["latest"]


def test_a_file_in_its_place_is_left(tmp_path: Path) -> None:
    (tmp_path / "latest").write_text("checkpoint-4, as some copies write a link")
    point(tmp_path / "latest", "checkpoint-5", beside=tmp_path / ".latest")
    assert (tmp_path / "latest").read_text().startswith("checkpoint-4")
