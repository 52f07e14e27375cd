"""Hydra launchers that give every job of a sweep processes of its own: `hydra/launcher=dcp_slurm` and `dcp_local`.

Hydra imports this module in every app of this environment, so it only names things; the work is in modules that
discovery does not import.
"""

# No postponed annotations here: Hydra's discovery executes the module before it is in sys.modules, where
# dataclasses would look them up.

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

__all__ = ["DcpLocalConfig", "DcpLocalLauncher", "DcpSlurmConfig", "DcpSlurmLauncher"]


@dataclass
class DcpLauncherConfig:
    """What both launchers know. Nodes, tasks, GPUs and time of a job come from its `parallel` and `resources`."""

    wait: bool = True
    """Wait for the jobs and fail if one fails; false: return after submitting, `dcp-runner status` tells the rest."""
    poll_s: float = 2.0
    """Seconds between two looks at the jobs."""
    snapshot: bool = False
    """Run a copy of the source (what git knows, and new files) as it is now, whatever is edited while jobs wait."""
    signal_delay_s: int = 120
    """Seconds before the time limit at which the job is told to save and stop."""
    setup: list[str] = field(default_factory=list)
    """Shell commands to run before the job, as `module load cuda`."""
    mode: str = "MULTIRUN"
    """For our own primary config: naming this launcher makes a sweep, also without -m."""


@dataclass
class DcpLocalConfig(DcpLauncherConfig):
    """Jobs as processes of this machine, by submitit."""

    _target_: str = "hydra_plugins.dcp_launcher.DcpLocalLauncher"
    parallel_jobs: int = 1
    """Jobs that run at the same time; each starts its own ranks."""


@dataclass
class DcpSlurmConfig(DcpLauncherConfig):
    """Jobs of SLURM, by submitit. The names are sbatch's; null: the cluster's default."""

    _target_: str = "hydra_plugins.dcp_launcher.DcpSlurmLauncher"
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    nodelist: str | None = None
    exclude: str | None = None
    gres: str | None = None
    exclusive: bool | None = None
    dependency: str | None = None
    comment: str | None = None
    mail_type: str | None = None
    mail_user: str | None = None
    mem_per_cpu: str | None = None
    array_parallelism: int = 256
    """Jobs of one array that run at the same time."""
    srun_args: list[str] = field(default_factory=list)
    """More arguments of srun."""
    additional_parameters: dict[str, Any] = field(default_factory=dict)
    """More options of sbatch, as {reservation: lab}."""


for _name, _node in (("dcp_local", DcpLocalConfig), ("dcp_slurm", DcpSlurmConfig)):
    ConfigStore.instance().store(group="hydra/launcher", name=_name, node=_node, provider="dcp_runner")


class _DcpLauncher(Launcher):
    scheduler: ClassVar[str]

    def __init__(self, **options: Any) -> None:
        self.options = options
        self._setting: tuple[HydraContext, TaskFunction, DictConfig] | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from dcp_runner.launch.quick import quicken

        quicken(hydra_context.config_loader)
        self._setting = (hydra_context, task_function, config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from hydra_plugins.dcp_launcher._launch import launch

        assert self._setting is not None
        return launch(self.scheduler, *self._setting, job_overrides, initial_job_idx, dict(self.options))


class DcpLocalLauncher(_DcpLauncher):
    """Each job in a process of this machine, which starts the job's ranks."""

    scheduler = "local"


class DcpSlurmLauncher(_DcpLauncher):
    """Each job as a job of SLURM, each rank a task of it; jobs of equal shape as one array."""

    scheduler = "slurm"
