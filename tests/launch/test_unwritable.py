"""A run or sweep folder that cannot be made or written ends the command at once, with its cause in one line."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import Command, composed, ours

from dcp_runner.common.run_dir import unwritable

pytestmark = pytest.mark.timeout(90)


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """For whoever runs the tests: permissions do not hold root back."""
    folder = tmp_path / "read-only"
    folder.mkdir(mode=0o500)
    root = os.geteuid() == 0
    if root:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", folder], check=True)
    yield folder
    if root:
        subprocess.run(["umount", folder], check=True)


def obstacles(here: Path) -> dict[str, str]:
    """Folder -> why it cannot be made."""
    (here / "file").touch()
    (here / "dead").symlink_to("nowhere")
    (here / "loop").symlink_to("loop")
    long = "n" * 300
    return {
        "file": f"{here}/file is no folder",
        "file/below/it": f"{here}/file is no folder",
        "dead": f"{here}/dead is a link that leads nowhere",
        "dead/below": f"{here}/dead is a link that leads nowhere",
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


@pytest.mark.parametrize("key", [pytest.param("hydra.run.dir", marks=pytest.mark.slow), "hydra.sweep.dir"])
def test_the_command_tells_it_and_starts_nothing(key: str, read_only: Path, tmp_path: Path) -> None:
    sweep = ["-m", "hydra/launcher=dcp_local", "seed=0,1"] if "sweep" in key else []
    made = Command(tmp_path, ours("meet"), [*sweep, f"{key}={read_only}/x", "model=gpt_tiny"]).start()
    assert made.wait() == 2
    cause = "Read-only file system" if os.geteuid() == 0 else "Permission denied"
    assert made.err.splitlines() == [
        "1 problem, nothing was started:",
        f"  * {key}={read_only}/x: it cannot be written: {read_only}: {cause}",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "dcp_local"])
def test_a_file_in_the_place_of_a_jobs_folder(launcher: str, tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s/1").touch()
    sweep = ["-m", f"hydra/launcher={launcher}", "hydra.sweep.dir=s", "seed=0,1,2"]
    made = Command(tmp_path, ours("meet"), [*sweep, "model=gpt_tiny"]).start()
    assert made.wait() == (2 if launcher == "basic" else 1)
    assert f"the run folder of job 1 cannot be created: {tmp_path}/s/1 is no folder" in made.err
    assert "Traceback" not in made.err and not (tmp_path / "s/0").exists()


@pytest.mark.parametrize(
    "blocked", ["", *(pytest.param(name, marks=pytest.mark.slow) for name in ("attempts", "logs"))]
)
def test_what_blocks_the_run_folder_behind_hydra(blocked: str, tmp_path: Path) -> None:
    """As in somebody else's program, which comes to us when Hydra has done its part."""
    folder = tmp_path / "outputs/run"
    (folder / blocked).parent.mkdir(parents=True)
    (folder / blocked).symlink_to("nowhere")
    made = Command(tmp_path, composed("meet")).start()
    assert made.wait() == 2
    assert made.err.splitlines() == [
        "1 problem, nothing was started:",
        f"  * run folder: it cannot be written: {folder / blocked} is a link that leads nowhere",
    ]


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`/dev/full` takes no byte."""
    monkeypatch.setattr("dcp_runner.common.run_dir.TemporaryFile", lambda dir: open("/dev/full", "wb"))  # noqa: SIM115
    assert unwritable(tmp_path / "x") == f"{tmp_path}: No space left on device"
