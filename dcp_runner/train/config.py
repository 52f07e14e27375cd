"""What a user may say about a training run. Plain data: nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Dispatch(StrEnum):
    """How samples reach the ranks."""

    central = "central"
    independent = "independent"


class Precision(StrEnum):
    """Arithmetic of the forward pass; weights and optimizer state stay in their own dtype."""

    fp32 = "fp32"
    bf16 = "bf16"


class NonFinite(StrEnum):
    """What a loss or a gradient norm that is not finite does to the run."""

    stop = "stop"
    warn = "warn"


class Device(StrEnum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Decay(StrEnum):
    """Shape of the learning rate after the warm-up."""

    constant = "constant"
    cosine = "cosine"
    linear = "linear"


@dataclass(kw_only=True)
class PlanConfig:
    """Where the model can be cut. Names are dotted paths of modules, in which `*` stands for one part. A field that
    says nothing is what the model's own `parallel_plan()` says, if it has one.
    """

    columns: list[str] = field(default_factory=list)
    """Linear layers that tp splits by their outputs; what follows must work on a part of the features."""
    rows: list[str] = field(default_factory=list)
    """Linear layers that tp splits by their inputs: those that take what `columns` give."""
    heads: int | None = None
    """The pieces that the features between `columns` and `rows` fall into, as attention heads (with grouped queries:
    key-value heads); tp must divide it."""
    layers: str | None = None
    """An nn.ModuleList: fsdp gathers the weights of its items one by one, and a pipeline is cut between them."""
    first: dict[str, str] = field(default_factory=dict)
    """Modules that only the first pipeline stage has, and what stands there in the others: `pass` gives its input on,
    `zero` gives 0."""
    last: list[str] = field(default_factory=list)
    """Modules that only the last pipeline stage has; in the others their input passes through."""


@dataclass(kw_only=True)
class ParallelConfig:
    """The topology: which strategy wraps the model, and the degree of every mesh axis.

    The mesh axes stand in this order: pp, dp, fsdp, tp. One degree may be -1: what is left of the world size.
    """

    strategy: str = "dcp_runner.train.single.Single"
    """Import path of the Strategy class."""
    dp: int = 1
    """Data-parallel replicas."""
    fsdp: int = 1
    """Ranks that a fully sharded model is cut over."""
    pp: int = 1
    """Pipeline stages."""
    tp: int = 1
    """Tensor-parallel ranks."""
    timeout_s: float = 1800.0
    """A rank that keeps the others waiting for longer inside the training fails the run."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the strategy, checked against its signature."""
    plan: PlanConfig = field(default_factory=PlanConfig)
    """Where the model can be cut, for models that do not tell it themselves."""


@dataclass(kw_only=True)
class ResourcesConfig:
    """Resources of one job."""

    nodes: int = 1
    """Machines."""
    tasks_per_node: int | None = None
    """Ranks on each node; null: what `parallel` asks for."""
    gpus_per_node: int | None = None
    """GPUs on each node; null: with trainer.device=cuda one for each task, else none is asked for."""
    cpus_per_task: int | None = None
    """CPU cores of each rank; null: the scheduler's default."""
    time_min: int | None = None
    """Time limit in minutes; null: the scheduler's default."""
    mem_gb: float | None = None
    """Memory of each node in GB; null: the scheduler's default."""
    requeues: int = 100
    """How often a job that its scheduler stops (time limit, preemption) asks to be started again; 0: never."""


@dataclass(kw_only=True)
class DataConfig:
    """Two data sets and how they are fed to the ranks. A data set has `__len__` and `__getitem__(i) -> (inputs,
    targets)`.
    """

    train: dict[str, Any] = field(default_factory=dict)
    """The training set: a `_target_` and its arguments."""
    eval: dict[str, Any] | None = None
    """The evaluation set: a `_target_` and its arguments; null: no evaluation."""
    batch_size: int = 32
    """Samples of one optimizer step over all ranks (the global batch size)."""
    dispatch: Dispatch = Dispatch.central
    """central: rank 0 reads and scatters; independent: each rank reads its own part."""
    shuffle: bool = True
    """A new order for every epoch, made from (seed, epoch)."""
    workers: int = 0
    """Loader processes of each reading rank; 0 reads in the rank itself."""


@dataclass(kw_only=True)
class ScheduleConfig:
    """Learning rate as a factor on the optimizer's own: linear warm-up, then the decay down to `min_ratio` at step
    `steps`, where it stays.
    """

    decay: Decay = Decay.cosine
    """constant, cosine or linear."""
    warmup_steps: int = 0
    """Steps of linear warm-up from 0."""
    min_ratio: float = 0.1
    """The factor that the decay ends with."""
    steps: int | None = None
    """Steps that the curve runs over, warm-up included; null: `trainer.max_steps`. A run that goes on to a larger
    `trainer.max_steps` keeps its learning rate where this holds the old one."""


@dataclass(kw_only=True)
class TrainerConfig:
    """The training loop."""

    max_steps: int = 300
    """Optimizer steps of the whole run, resumed parts included."""
    eval_every: int | None = 100
    """Evaluate after every so many optimizer steps (and after the last); null: never."""
    eval_samples: int | None = None
    """Samples of one evaluation, evenly spread over the evaluation set; null: all."""
    accumulate: int = 1
    """Micro-batches of one optimizer step on each rank."""
    clip_norm: float | None = 1.0
    """Largest 2-norm of all gradients together; null: no clipping."""
    precision: Precision = Precision.fp32
    """fp32, or bf16 autocast."""
    nonfinite: NonFinite = NonFinite.stop
    """What a loss or a gradient norm that is not finite does: stop ends the run with an error before the optimizer's
    step, and nothing is saved at or after that step; warn only says so. The same for an evaluation, and for weights
    that are to be saved."""
    device: Device = Device.auto
    """auto takes CUDA where there is a GPU for every rank."""


@dataclass(kw_only=True)
class LoggerConfig:
    """What is told about the run, and where."""

    every_steps: int = 10
    """Log a line of metrics after every so many steps (metrics.jsonl has every step)."""
    progress: bool = True
    """A progress bar where the console is a terminal; plain lines elsewhere."""
    trackers: dict[str, Any] = field(default_factory=dict)
    """Experiment trackers by name: `+logger.trackers.mine={_target_: my.Tracker}`. Each is called as (run_dir, run_id,
    its other arguments), in rank 0; one run of theirs holds all attempts of a run folder."""
