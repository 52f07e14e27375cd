"""Hydra launchers that give each job of a sweep its own processes: `hydra/launcher=dcp_slurm` and `dcp_local`.

Hydra imports this module in every app of this environment, so it only has the names; options and work are in modules
that discovery does not import.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

__all__ = ["DcpLocalLauncher", "DcpSlurmLauncher"]


class _DcpLauncher(Launcher):
    def __init__(self, **options: Any) -> None:
        self.options = options
        self._job_folders: list[Any] = []
        """Where the jobs of all calls write: a sweeper may submit them in several calls."""
        self._setup: tuple[HydraContext, TaskFunction, DictConfig] | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from dcp_runner.launch.preflight.compose_cache import cache_composition

        cache_composition(hydra_context.config_loader)
        self._setup = (hydra_context, task_function, config)

    def _launch(self, options: Any, job_overrides: Sequence[Sequence[str]], first: int) -> Sequence[JobReturn]:
        from hydra_plugins.dcp_launcher._launch import launch

        assert self._setup is not None
        return launch(*self._setup, job_overrides, first, options, self._job_folders)


class DcpLocalLauncher(_DcpLauncher):
    """Each job in a process of this machine, which starts the job's ranks."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from hydra_plugins.dcp_launcher._config import DcpLocalConfig

        return self._launch(DcpLocalConfig(**self.options), job_overrides, initial_job_idx)


class DcpSlurmLauncher(_DcpLauncher):
    """Each job as a SLURM job, each rank as one of its tasks; jobs of equal shape form an array."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from hydra_plugins.dcp_launcher._config import DcpSlurmConfig

        return self._launch(DcpSlurmConfig(**self.options), job_overrides, initial_job_idx)
