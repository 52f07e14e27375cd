"""Where a model can be cut: which of its layers are split over tp, and where the stages of a pipeline may end.

A model tells it by a method `parallel_plan()` that returns a mapping with the keys of `PlanConfig`; for a model that
has no such method, or that tells something else than is wanted, `parallel.plan` in the configuration says it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

from dcp_runner.train.parallel.config import PlanConfig


@dataclass(frozen=True, kw_only=True)
class SplitPlan:
    """What `PlanConfig` describes, complete: nothing is said where a field is empty."""

    columns: Sequence[str] = ()
    rows: Sequence[str] = ()
    heads: int | None = None
    layers: str | None = None
    first: Mapping[str, str] = field(default_factory=dict)
    last: Sequence[str] = ()

    def layers_of(self, model: nn.Module) -> list[nn.Module]:
        """The layers of the model, in order; none where the plan names no list of them."""
        return list(model.get_submodule(self.layers).children()) if self.layers else []


def split_plan(model: nn.Module, config: PlanConfig) -> SplitPlan:
    """The model's own plan, with what the configuration says instead."""
    told: Any = getattr(model, "parallel_plan", dict)
    return SplitPlan(**told() | {key: value for key, value in asdict(config).items() if value})


def matching(model: nn.Module, pattern: str) -> list[str]:
    """Names of the modules that a dotted path means; `*` stands for one part of a name."""
    expression = re.compile(r"\.".join("[^.]+" if part == "*" else re.escape(part) for part in pattern.split(".")))
    return [name for name, _ in model.named_modules() if expression.fullmatch(name)]


def name_problems(model: nn.Module, plan: SplitPlan) -> Iterator[str]:
    """Names in the plan that the model does not have."""
    named = {"columns": plan.columns, "rows": plan.rows, "first": plan.first, "last": plan.last}
    named["layers"] = [plan.layers] if plan.layers else []
    for key, patterns in named.items():
        for pattern in patterns:
            if not matching(model, pattern):
                yield f"parallel.plan.{key}: {type(model).__name__} has no module {pattern!r}"
