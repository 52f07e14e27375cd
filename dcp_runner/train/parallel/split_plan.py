"""Where a model can be split: which of its layers are split over tp, and between which ones a pipeline can be split.

A model defines it by a method `parallel_plan()`, which returns a mapping with the keys of `SplitPlanConfig`. Where a
model has no such method, or the wrong one for a run, `parallel.plan` in the configuration defines it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

from dcp_runner.train.parallel.config import SplitPlanConfig


@dataclass(frozen=True, kw_only=True)
class SplitPlan:
    """The fields of `SplitPlanConfig`, merged from the model and the configuration."""

    columns: Sequence[str] = ()
    rows: Sequence[str] = ()
    heads: int | None = None
    layers: str | None = None
    first: Mapping[str, str] = field(default_factory=dict)
    last: Sequence[str] = ()

    def layers_of(self, model: nn.Module) -> list[nn.Module]:
        """The layers of the model, in order; empty if the plan names no list of layers."""
        return list(model.get_submodule(self.layers).children()) if self.layers else []


def resolve_split_plan(model: nn.Module, config: SplitPlanConfig) -> SplitPlan:
    """The model's own plan, overridden by the fields that the configuration sets."""
    own: Any = getattr(model, "parallel_plan", dict)
    return SplitPlan(**own() | {key: value for key, value in asdict(config).items() if value})


def matching_modules(model: nn.Module, pattern: str) -> list[str]:
    """Names of the modules that a dotted path matches; `*` stands for one component of the path."""
    expression = re.compile(r"\.".join("[^.]+" if part == "*" else re.escape(part) for part in pattern.split(".")))
    return [name for name, _ in model.named_modules() if expression.fullmatch(name)]


def validate_names(model: nn.Module, split_plan: SplitPlan) -> Iterator[str]:
    """A problem for each name in the plan that matches no module of the model."""
    named = {key: getattr(split_plan, key) for key in ("columns", "rows", "first", "last")}
    named["layers"] = [split_plan.layers] if split_plan.layers else []
    for key, patterns in named.items():
        for pattern in patterns:
            if not matching_modules(model, pattern):
                yield f"parallel.plan.{key}: {type(model).__name__} has no module {pattern!r}"
