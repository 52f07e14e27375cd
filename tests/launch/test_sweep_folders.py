"""Jobs of a sweep that would write into one folder are refused before the first of them, whoever runs them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from commands import Command, ours

pytestmark = pytest.mark.timeout(90)


ROOT, SUBDIR = "checkpoint.root=./ck/../ck", "hydra.sweep.subdir=x"


@pytest.mark.parametrize(
    ("launcher", "shared"),
    [
        ("basic", ROOT),
        pytest.param("dcp_local", SUBDIR, marks=pytest.mark.slow),
        pytest.param("basic", SUBDIR, marks=pytest.mark.slow),
        pytest.param("dcp_slurm", ROOT, marks=pytest.mark.slow),
    ],
)
def test_jobs_that_share_a_folder_are_refused(launcher: str, shared: str, tmp_path: Path) -> None:
    sweep = ["-m", f"hydra/launcher={launcher}", "hydra.sweep.dir=s", "seed=range(0,9)", "data.batch_size=8,16", shared]
    made = Command(tmp_path, ours("meet"), [*sweep, "model=gpt_tiny"]).start()
    assert made.wait() == (2 if launcher == "basic" else 1), made.err
    key, folder = shared.partition("=")[0], "ck" if "root" in shared else "s/x"
    (told,) = [line for line in made.err.splitlines() if line.startswith("  * ")]
    assert told.startswith(f"  * {key}: jobs 0 (data.batch_size=8) and 1 (data.batch_size=16) and 16 more write to")
    assert f"write to {tmp_path / folder}, where" in told
    assert "Traceback" not in made.err
    assert not [*tmp_path.glob("s/*/")] and not (tmp_path / "ck").exists()


@pytest.mark.slow
def test_those_of_a_sweeper_that_submits_by_and_by(tmp_path: Path) -> None:
    (tmp_path / "hydra_plugins/one").mkdir(parents=True)
    (tmp_path / "hydra_plugins/one/__init__.py").write_text(ONE_AT_A_TIME)
    sweep = ["-m", "hydra.sweeper._target_=hydra_plugins.one.One", "hydra/launcher=dcp_local", "hydra.sweep.dir=s"]
    command = [
        sys.executable,
        "-m",
        "dcp_runner",
        *sweep,
        "debug=tiny",
        "dry_run=true",
        "checkpoint.root='ck/${optim.lr}'",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=80)
    assert done.returncode == 1
    assert "jobs 0 (seed=0) and 2 (seed=2) write to" in done.stderr
    assert "== plan of job 1" in done.stdout and "== plan of job 2" not in done.stdout


ONE_AT_A_TIME = """
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

class One(BasicSweeper):
    def sweep(self, arguments):
        for number, rate in enumerate(("0.1", "0.2", "0.1")):
            self.launcher.launch([[*arguments, f"optim.lr={rate}", f"seed={number}"]], initial_job_idx=number)
"""
