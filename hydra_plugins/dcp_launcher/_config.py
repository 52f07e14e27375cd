"""The options of the launchers, as Hydra's config group `hydra/launcher` has them."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, ClassVar


@dataclass
class DcpLauncherConfig:
    """The options of both launchers. Nodes, tasks, GPUs and time of a job come from its `parallel` and `resources`."""

    scheduler: ClassVar[str]

    wait: bool = True
    """Wait for the jobs and fail if one fails; false: return after submitting, `dcp-runner status` shows the rest."""
    poll_s: float = 2.0
    """Seconds between two checks of the jobs."""
    snapshot: bool = False
    """Run a copy of the source (tracked and new files) as it is now, whatever is edited while jobs wait."""
    signal_delay_s: int = 120
    """Seconds before the time limit at which the job gets the signal to save and stop."""
    python: str | None = None
    """Command that starts Python in the job, as `apptainer exec lab.sif python`; null: the Python of this command."""
    setup: list[str] = field(default_factory=list)
    """Shell commands to run before the job, as `module load cuda`."""
    mode: str = "MULTIRUN"
    """For our own primary config: choosing this launcher starts a sweep, even without -m."""


@dataclass
class DcpLocalConfig(DcpLauncherConfig):
    """Jobs as processes of this machine, by submitit."""

    scheduler = "local"

    _target_: str = "hydra_plugins.dcp_launcher.DcpLocalLauncher"
    parallel_jobs: int = 1
    """Jobs that run at the same time; each starts its own ranks."""


@dataclass
class SbatchOptions:
    """Options that sbatch has under the same names, with - for _; null: the cluster's default."""

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

    def sbatch(self) -> dict[str, Any]:
        """These options alone, whatever else a subclass has."""
        return {option.name: getattr(self, option.name) for option in fields(SbatchOptions)}


@dataclass
class DcpSlurmConfig(DcpLauncherConfig, SbatchOptions):
    """Jobs of SLURM, by submitit."""

    scheduler = "slurm"

    _target_: str = "hydra_plugins.dcp_launcher.DcpSlurmLauncher"
    array_parallelism: int = 256
    """Jobs of one array that run at the same time."""
    srun_args: list[str] = field(default_factory=list)
    """More arguments for srun."""
    additional_parameters: dict[str, Any] = field(default_factory=dict)
    """More options for sbatch, as {reservation: lab}."""


LAUNCHERS = {"hydra/launcher/dcp_local": DcpLocalConfig, "hydra/launcher/dcp_slurm": DcpSlurmConfig}
