"""What a user may say about the topology. Plain data: nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from dcp_runner.common.settings import setting


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
    first: dict[str, str] = setting(default_factory=dict, open=True)
    """Modules that only the first pipeline stage has, and what stands there in the others: `pass` gives its input on,
    `zero` gives 0."""
    last: list[str] = field(default_factory=list)
    """Modules that only the last pipeline stage has; in the others their input passes through."""


@dataclass(kw_only=True)
class ParallelConfig:
    """The topology: which strategy wraps the model, and the degree of every mesh axis.

    The mesh axes stand in this order: pp, dp, fsdp, tp. One degree may be -1: what is left of the world size.
    """

    strategy: str = "dcp_runner.train.parallel.single.Single"
    """Import path of the Strategy class."""
    dp: int = 1
    """Data-parallel replicas."""
    fsdp: int = 1
    """Ranks that a fully sharded model is cut over."""
    pp: int = 1
    """Pipeline stages."""
    tp: int = 1
    """Tensor-parallel ranks."""
    timeout_s: float = setting(1800.0, above=0)
    """A rank that keeps the others waiting for longer inside the training fails the run."""
    options: dict[str, Any] = setting(default_factory=dict, open=True)
    """Keyword arguments of the strategy, checked against its signature."""
    plan: PlanConfig = field(default_factory=PlanConfig)
    """Where the model can be cut, for models that do not tell it themselves."""
