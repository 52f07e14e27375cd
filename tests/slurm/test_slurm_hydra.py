"""Hydra's own suites against the launcher of SLURM. They need a process that has not used Hydra before."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from conftest import Cluster
from hydra.test_utils.launcher_common_tests import IntegrationTestSuite, LauncherTestSuite
from hydra.test_utils.test_utils import chdir_plugin_root  # noqa: F401

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(200)]
OFTEN = "hydra.launcher.poll_s=0.3"


@pytest.fixture(autouse=True, scope="module")
def on_the_cluster(cluster: Cluster) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update({name: cluster.env[name] for name in ("SLURM_CONF", "PATH")})
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.parametrize("launcher_name, overrides", [("dcp_slurm", [OFTEN])])
class TestLauncher(LauncherTestSuite):
    pass


@pytest.mark.parametrize("task_launcher_cfg, extra_flags", [({}, ["-m", "hydra/launcher=dcp_slurm", OFTEN])])
class TestIntegration(IntegrationTestSuite):
    pass
