"""The real command: which starts are one run, and which must not go on with each other's checkpoints."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(150)]

TINY = ("debug=tiny", "trainer.device=cpu", "trainer.eval_every=null", "checkpoint.every_steps=2")


def command(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "dcp_runner", *overrides, *TINY]
    return subprocess.run(line, cwd=folder, env=os.environ, capture_output=True, text=True, timeout=60)


def test_checkpoints_in_a_fixed_folder(tmp_path: Path) -> None:
    """Starts of a run without a name go on with them; another run, and a job of a sweep, does not."""
    fixed = f"checkpoint.root={tmp_path}/fixed"
    assert command(tmp_path, fixed, "trainer.max_steps=2").returncode == 0
    again = command(tmp_path, fixed, "trainer.max_steps=4")
    assert again.returncode == 0 and "RESUMED step=2" in again.stdout, again.stderr
    before = sorted(path.name for path in (tmp_path / "fixed").iterdir())
    for other in (["name=other"], ["-m", "hydra.sweep.dir=sweep"]):
        refused = command(tmp_path, *other, fixed, "trainer.max_steps=4")
        told = refused.stdout + refused.stderr
        assert refused.returncode != 0 and "holds the checkpoints of another run" in told, told
    assert sorted(path.name for path in (tmp_path / "fixed").iterdir()) == before
    submitted = command(tmp_path, "hydra/launcher=dcp_local", fixed, "trainer.max_steps=6")
    assert submitted.returncode == 0, submitted.stderr
    assert (tmp_path / "fixed/checkpoint-6").is_dir(), "the only job of a launcher is a single run"
    begun = command(tmp_path, "name=other2", f"resume={tmp_path}/fixed", "trainer.max_steps=8")
    assert begun.returncode == 0 and "RESUMED step=6" in begun.stdout, "the remedy"


def test_one_sweep_moved_and_done_again(tmp_path: Path) -> None:
    """A job is known by the id of its sweep, which moves with it."""
    sweep = ["-m", "hydra.sweep.subdir=job", "trainer.max_steps=2"]
    assert command(tmp_path, *sweep, "hydra.sweep.dir=one").returncode == 0
    (tmp_path / "one").rename(tmp_path / "two")
    again = command(tmp_path, *sweep, "hydra.sweep.dir=two", "trainer.max_steps=4")
    assert again.returncode == 0 and "RESUMED step=2" in again.stdout, again.stderr
    (tmp_path / "two" / "job").rename(tmp_path / "job")
    single = command(tmp_path, "hydra.run.dir=job", "trainer.max_steps=6")
    assert single.returncode == 0 and "RESUMED step=4" in single.stdout, single.stderr
