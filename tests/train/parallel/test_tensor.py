"""Which layers tensor parallelism splits, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
from split_models import model, plan
from torch import nn
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel

from dcp_runner.train.parallel.config import SplitPlanConfig
from dcp_runner.train.parallel.strategy import PlannedRun
from dcp_runner.train.parallel.tensor import TensorParallel, _styles


def problems(degree: int, build: Any = model, **fields: Any) -> list[str]:
    degrees = {"pp": 1, "dp": 1, "fsdp": 1, "tp": degree}
    return [*TensorParallel().validate(PlannedRun(degrees, 4, build, SplitPlanConfig(**fields)))]


def test_columns_and_rows_are_split() -> None:
    styles = _styles(model(2), plan())
    assert {name for name, style in styles.items() if isinstance(style, RowwiseParallel)} == {
        f"blocks.{block}.{layer}" for block in range(2) for layer in ("attention.out", "mlp.shrink")
    }
    assert len([style for style in styles.values() if isinstance(style, ColwiseParallel)]) == 8


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (lambda: problems(1, nn.Identity), []),
        (lambda: problems(2), []),
        (lambda: problems(4), ["parallel.tp=4: must divide the 2 heads of GPT"]),
        (lambda: problems(2, columns=["embed"]), ["parallel.plan: embed is a Embedding; only nn.Linear can be split"]),
        (lambda: problems(2, rows=["nothing"]), ["parallel.plan.rows: GPT has no module 'nothing'"]),
        (
            lambda: problems(2, lambda: nn.Sequential(nn.Linear(3, 3)), columns=["0"]),
            ["parallel.tp=2: must divide out_features=3 of 0"],
        ),
        (
            lambda: problems(2, nn.Identity),
            ["parallel.tp=2: no plan for splitting Identity; name its layers in parallel.plan"],
        ),
    ],
)
def test_what_does_not_fit_is_named(found: Any, expected: list[str]) -> None:
    assert found() == expected
