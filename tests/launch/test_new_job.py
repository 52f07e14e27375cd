"""The folder of a run or sweep: one that cannot be made or written ends the command at once, with the cause in one line."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import Command, composed, ours

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
    assert f"the run folder of job 1 cannot be created: {tmp_path}/s/1 is not a folder" in made.err
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
        f"  * run folder: cannot be written: {folder / blocked} is a broken link",
    ]
