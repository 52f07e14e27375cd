"""What a user can configure about the topology. Plain data: nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import Any

from dcp_runner.checkpoint.topology import AXES
from dcp_runner.common.settings import setting

DATA_AXES = ("dp", "fsdp")
"""Mesh axes along which ranks see different samples."""


@dataclass(kw_only=True)
class SplitPlanConfig:
    """Where the model can be split. Names are dotted paths of modules, in which `*` stands for one component of a path.
    An empty field means what the model's own `parallel_plan()` says, if it has one.
    """

    columns: list[str] = field(default_factory=list)
    """Linear layers that tp splits by their outputs; what follows must work on a part of the features."""
    rows: list[str] = field(default_factory=list)
    """Linear layers that tp splits by their inputs: those that take the outputs of `columns`."""
    heads: int | None = None
    """Number of groups of the features between `columns` and `rows`, such as attention heads (with grouped queries:
    key-value heads); tp must divide it."""
    layers: str | None = None
    """An nn.ModuleList: fsdp gathers the weights of its items one by one, and a pipeline is split between them."""
    first: dict[str, str] = setting(default_factory=dict, open=True)
    """Modules that only the first pipeline stage has, and what replaces them in the other stages: `pass` returns its
    input, `zero` returns 0."""
    last: list[str] = field(default_factory=list)
    """Modules that only the last pipeline stage has; the other stages return their input unchanged."""


@dataclass(kw_only=True)
class ParallelConfig:
    """The topology: which strategy wraps the model, and the degree of every mesh axis.

    The mesh axes, outermost first: pp, dp, fsdp, tp. One degree may be -1, meaning all remaining ranks.
    """

    strategy: str = "dcp_runner.train.parallel.single.Single"
    """Import path of the Strategy class."""
    dp: int = 1
    """Data-parallel replicas."""
    fsdp: int = 1
    """Ranks that a fully sharded model is sharded over."""
    pp: int = 1
    """Ranks of a pipeline."""
    tp: int = 1
    """Tensor-parallel ranks."""
    timeout_s: float = setting(1800.0, above=0)
    """The run fails if a rank keeps the others waiting for longer than this during training."""
    options: dict[str, Any] = setting(default_factory=dict, open=True)
    """Keyword arguments of the strategy, checked against its signature."""
    plan: SplitPlanConfig = field(default_factory=SplitPlanConfig)
    """Where the model can be split, for models that do not define it themselves."""

    @property
    def degrees(self) -> dict[str, int]:
        """The degree of each mesh axis, outermost axis first."""
        return {axis: getattr(self, axis) for axis in AXES}

    @property
    def world_size(self) -> int:
        """Ranks of the mesh, once no degree is -1."""
        return prod(self.degrees.values())

    @property
    def data_parallel_size(self) -> int:
        """Parts that the global batch is divided into, once no degree is -1."""
        return prod(self.degrees[axis] for axis in DATA_AXES)
