"""The whole configuration of a run as typed data. Hydra's DictConfig ends here.

The path of a configuration: YAML and overrides, composed by Hydra into a DictConfig -> `load` -> RunConfig, which the
launcher completes -> `to_plain` -> a dict that travels to the ranks and into the run folder -> `from_plain` -> the
same RunConfig. Everything is closed (an unknown key is an error) but the open nodes, whose keys are checked against
their `_target_` instead.
"""

from __future__ import annotations

from dataclasses import dataclass, field, is_dataclass
from enum import StrEnum
from functools import cache
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dcp_runner.checkpoint.config import CheckpointConfig
from dcp_runner.common.settings import setting, settings
from dcp_runner.train.config import LoggerConfig, ScheduleConfig, TrainerConfig
from dcp_runner.train.parallel.config import ParallelConfig


class ResumeRng(StrEnum):
    """What happens to the random generators on resuming."""

    strict = "strict"
    reseed = "reseed"


class Dispatch(StrEnum):
    """How samples reach the ranks."""

    central = "central"
    independent = "independent"


@dataclass(kw_only=True)
class ResourcesConfig:
    """Resources of one job."""

    nodes: int = setting(1, at_least=1)
    """Machines."""
    tasks_per_node: int | None = setting(None, at_least=1)
    """Ranks on each node; null: what `parallel` asks for."""
    gpus_per_node: int | None = setting(None, at_least=0)
    """GPUs on each node; null: with trainer.device=cuda one for each task, else none is asked for."""
    cpus_per_task: int | None = setting(None, at_least=1)
    """CPU cores of each rank; null: the scheduler's default."""
    time_min: int | None = setting(None, at_least=1)
    """Time limit in minutes; null: the scheduler's default."""
    mem_gb: float | None = setting(None, above=0)
    """Memory of each node in GB; null: the scheduler's default."""
    requeues: int = setting(100, at_least=0)
    """How often a job that its scheduler stops (time limit, preemption) asks to be started again; 0: never."""


@dataclass(kw_only=True)
class DataConfig:
    """Two data sets and how they are fed to the ranks. A data set has `__len__` and `__getitem__(i) -> (inputs,
    targets)`.
    """

    train: dict[str, Any] = setting(default_factory=dict, open=True)
    """The training set: a `_target_` and its arguments."""
    eval: dict[str, Any] | None = setting(None, open=True)
    """The evaluation set: a `_target_` and its arguments; null: no evaluation."""
    batch_size: int = setting(32, at_least=1)
    """Samples of one optimizer step over all ranks (the global batch size)."""
    dispatch: Dispatch = Dispatch.central
    """central: rank 0 reads and scatters; independent: each rank reads its own part."""
    shuffle: bool = True
    """A new order for every epoch, made from (seed, epoch)."""
    workers: int = setting(0, at_least=0)
    """Loader processes of each reading rank; 0 reads in the rank itself."""


@dataclass(kw_only=True)
class RunConfig:
    """One run."""

    name: str = setting("${now:%Y-%m-%d}/${now:%H-%M-%S.%f}", start_only=True)
    """Name of the run folder below `outputs/`. Give one, and the same command continues the same run."""
    seed: int = setting(0, at_least=0)
    """Weights, data order and dropout all come from it."""
    optimized_metric: str = setting("eval_loss", hashed=False)
    """What the run returns, for sweepers that optimise (`hydra/sweeper=optuna`): the last value of this metric."""
    dry_run: bool = setting(False, start_only=True)
    """Show the plan (and, with a launcher, the batch scripts), and start nothing."""
    resume: int | str = setting("auto", start_only=True)
    """auto, never, must, latest, best, a step, a run folder or a `checkpoint-N` folder. Of another run it names where
    this one begins; once this one has checkpoints that began there, the same command goes on from them.
    """
    resume_skip: list[str] = setting(default_factory=list, start_only=True)
    """Components that stay as they were built and are not loaded."""
    resume_rng: ResumeRng = setting(ResumeRng.strict, start_only=True)
    """strict restores the generators; reseed derives them anew from (seed, step, rank)."""
    resume_override: list[str] = setting(default_factory=list, start_only=True)
    """Keys whose new value wins over the value in the checkpoint, as `optim.lr`."""
    resume_sweep: str | None = setting(None, start_only=True)
    """The folder of a sweep: run its remaining jobs. Its command need not be repeated."""
    resume_sweep_changed: bool = setting(False, start_only=True)
    """Let `resume_sweep` run jobs that are not what they were when the sweep was submitted."""
    verify_resume: int = setting(0, at_least=0, hashed=False)
    """N: instead of training, try whether N steps, a resume and N steps are 2N steps, bit for bit; 0: train."""
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    sharing: dict[str, str] = setting(default_factory=dict, open=True)
    """For each component `auto` or a pattern: global, replicated, per_rank, per_node, per_group:<axes>."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    model: dict[str, Any] = setting(default_factory=dict, open=True)
    """A `_target_` (an nn.Module) and its arguments."""
    loss: dict[str, Any] = setting(default_factory=dict, open=True)
    """A `_target_` called as (outputs, targets) -> scalar tensor, the mean over the samples."""
    data: DataConfig = field(default_factory=DataConfig)
    optim: dict[str, Any] = setting(default_factory=dict, open=True)
    """A `_target_` (a torch optimizer) and its arguments but the parameters."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    resources: ResourcesConfig = setting(default_factory=ResourcesConfig, hashed=False)
    logger: LoggerConfig = setting(default_factory=LoggerConfig, hashed=False)
    callbacks: dict[str, Any] = setting(default_factory=dict, open=True)
    """Own callbacks by name: `+callbacks.ema={_target_: my.Ema}`."""


@cache
def schemas() -> dict[str, DictConfig]:
    """The types of all config groups as Hydra wants them: `base_config`, and `<group>/base_<group>`."""
    root = OmegaConf.structured(RunConfig)
    for path in (each.key for each in settings(RunConfig()) if each.facts.open):
        group, _, name = path.rpartition(".")
        parent = OmegaConf.select(root, group) if group else root
        OmegaConf.set_struct(parent._get_node(name), False)  # data.eval is null, so it cannot be selected
    groups = [group for group, default in vars(RunConfig()).items() if is_dataclass(default)]
    return {"base_config": root, **{f"{group}/base_{group}": root[group] for group in groups}}
