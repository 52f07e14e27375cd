"""What the sharding strategy refuses, and which modules and buffers it handles."""

from __future__ import annotations

import pytest
import torch
from split_models import model
from torch import nn

from dcp_runner.train.parallel.config import SplitPlanConfig
from dcp_runner.train.parallel.fsdp import FullyShard, layer_by_layer, persistent_buffers
from dcp_runner.train.parallel.split_plan import SplitPlan, resolve_split_plan
from dcp_runner.train.parallel.strategy import PlannedRun


def planned(**degrees: int) -> PlannedRun:
    full = {"pp": 1, "dp": 1, "fsdp": 1, "tp": 1, **degrees}
    return PlannedRun(full, 4, model, SplitPlanConfig())


@pytest.mark.parametrize(
    ("degrees", "refused"), [({"dp": 2}, True), ({"dp": 2, "fsdp": 2}, False), ({"fsdp": 2}, False), ({}, False)]
)
def test_replicas_of_something_that_is_not_sharded_are_refused(degrees: dict[str, int], refused: bool) -> None:
    problems = [*FullyShard().validate(planned(**degrees))]
    assert (
        problems
        == ["parallel.fsdp=1 with parallel.dp=2: nothing is sharded; use a larger fsdp, or parallel=ddp"] * refused
    )


def test_layers_come_first_and_the_model_last() -> None:
    gpt, wrapped = model(3), []
    assert layer_by_layer(gpt, resolve_split_plan(gpt, SplitPlanConfig()), wrapped.append) is gpt
    assert wrapped == [*gpt.blocks, gpt]
    wrapped.clear()
    layer_by_layer(gpt, SplitPlan(), wrapped.append)
    assert wrapped == [gpt]


def test_only_buffers_of_the_state_are_synchronized() -> None:
    module = nn.Sequential(nn.BatchNorm1d(2), nn.Identity())
    module[1].register_buffer("scratch", torch.zeros(1), persistent=False)
    module.register_buffer("again", module[0].running_mean)
    names = {"0.running_mean", "0.running_var", "0.num_batches_tracked"}
    buffers = dict(module.named_buffers(remove_duplicate=False))
    assert {id(b) for b in persistent_buffers(module)} == {id(buffers[name]) for name in names}
    assert len(persistent_buffers(module)) == 3
