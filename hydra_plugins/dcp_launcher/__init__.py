"""Hydra launchers that give every job of a sweep processes of its own: `hydra/launcher=dcp_slurm` and `dcp_local`.

Hydra imports this module in every app of this environment, so it only names things; the options and the work are in
modules that discovery does not import.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

__all__ = ["DcpLocalLauncher", "DcpSlurmLauncher"]


class _DcpLauncher(Launcher):
    scheduler: ClassVar[str]

    def __init__(self, **options: Any) -> None:
        self.options = options
        self._places: list[Any] = []
        """Where the jobs of all calls write: a sweeper may submit them by and by."""
        self._setting: tuple[HydraContext, TaskFunction, DictConfig] | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from dcp_runner.launch.preflight.compose_cache import cache_composition

        cache_composition(hydra_context.config_loader)
        self._setting = (hydra_context, task_function, config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from hydra_plugins.dcp_launcher._launch import launch

        assert self._setting is not None
        return launch(self.scheduler, *self._setting, job_overrides, initial_job_idx, dict(self.options), self._places)


class DcpLocalLauncher(_DcpLauncher):
    """Each job in a process of this machine, which starts the job's ranks."""

    scheduler = "local"


class DcpSlurmLauncher(_DcpLauncher):
    """Each job as a job of SLURM, each rank a task of it; jobs of equal shape as one array."""

    scheduler = "slurm"
