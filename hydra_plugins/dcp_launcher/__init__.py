"""Hydra launchers that give every job of a sweep a process of its own: `-m hydra/launcher=dcp_local`.

Hydra imports this module in every app of this environment, so it only names things; the work is in `_local`, which
discovery does not import.
"""

# No postponed annotations here: Hydra's discovery executes the module before it is in sys.modules, where
# dataclasses would look them up.

from collections.abc import Sequence
from dataclasses import dataclass

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

__all__ = ["DcpLocalConfig", "DcpLocalLauncher"]


@dataclass
class DcpLocalConfig:
    """Jobs as processes of this machine, by submitit."""

    _target_: str = "hydra_plugins.dcp_launcher.DcpLocalLauncher"
    parallel_jobs: int = 1
    """Jobs that run at the same time; each starts its own ranks."""
    timeout_min: int = 60 * 24 * 30
    """Minutes after which a job is ended."""


ConfigStore.instance().store(group="hydra/launcher", name="dcp_local", node=DcpLocalConfig, provider="dcp_runner")


class DcpLocalLauncher(Launcher):
    """A failing job is told with its last words, and does not keep the others from running; the sweep then fails."""

    def __init__(self, parallel_jobs: int = 1, timeout_min: int = 60 * 24 * 30) -> None:
        self.parallel_jobs = parallel_jobs
        self.timeout_min = timeout_min
        self._setting: tuple[HydraContext, TaskFunction, DictConfig] | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._setting = (hydra_context, task_function, config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from hydra_plugins.dcp_launcher._local import launch

        assert self._setting is not None
        return launch(*self._setting, job_overrides, initial_job_idx, self.parallel_jobs, self.timeout_min)
