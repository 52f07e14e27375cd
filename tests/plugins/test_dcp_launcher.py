"""Hydra's own suites against our launcher, and what they do not test: a failing job is reported as failed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.test_utils.launcher_common_tests import IntegrationTestSuite, LauncherTestSuite
from hydra.test_utils.test_utils import chdir_plugin_root  # noqa: F401

from hydra_plugins.dcp_launcher import DcpLocalLauncher


def test_discovered() -> None:
    assert DcpLocalLauncher.__name__ in [cls.__name__ for cls in Plugins.instance().discover(Launcher)]


@pytest.mark.slow
@pytest.mark.parametrize("launcher_name, overrides", [("dcp_local", ["hydra.launcher.poll_s=0.2"])])
class TestLauncher(LauncherTestSuite):
    pass


@pytest.mark.slow
@pytest.mark.parametrize(
    "task_launcher_cfg, extra_flags", [({}, ["-m", "hydra/launcher=dcp_local", "hydra.launcher.poll_s=0.2"])]
)
class TestIntegration(IntegrationTestSuite):
    pass


APP = """
import os, signal
import hydra

@hydra.main(version_base="1.3", config_path=None)
def main(cfg):
    if cfg.how == "raise":
        raise ValueError("boom")
    if cfg.how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    print("fine", cfg.number)

main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["raise", "kill"])
def test_a_failing_job_fails_the_sweep_and_not_the_others(tmp_path: Path, how: str) -> None:
    (tmp_path / "app.py").write_text(APP)
    command = [sys.executable, "app.py", "-m", "hydra/launcher=dcp_local", f"+how={how},fine", "+number=1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode != 0
    assert "job 0 failed" in done.stdout + done.stderr
    assert "job 1 done" in done.stdout + done.stderr


OPTIMISER = """
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

class Optimiser(BasicSweeper):
    pass
"""


@pytest.mark.slow
def test_a_sweeper_that_needs_results_must_wait(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "hydra_plugins/optimiser").mkdir(parents=True)
    (tmp_path / "hydra_plugins/optimiser/__init__.py").write_text(OPTIMISER)
    sweeper = ["hydra.sweeper._target_=hydra_plugins.optimiser.Optimiser", "hydra.launcher.wait=false"]
    command = [sys.executable, "app.py", "-m", "hydra/launcher=dcp_local", *sweeper, "+how=fine", "+number=1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode != 0
    assert "hydra_plugins.optimiser.Optimiser needs the results of the jobs; set wait=true" in done.stderr
    assert not list(tmp_path.glob("multirun/*/*/sweep.json"))
