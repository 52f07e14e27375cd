"""A schedule gives the losses and gradients of the mean, and is built once for each shape. On one rank with one stage;
test_strategy.py has several.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from split_models import model, plan
from torch import nn

from dcp_runner.common.torch_private import fake_store
from dcp_runner.models.loss import next_token
from dcp_runner.train.parallel.pipeline_schedules import PipelineSchedules
from dcp_runner.train.parallel.pipeline_split import build_stage
from dcp_runner.train.parallel.pipeline_stages import StageModule


@pytest.fixture
def group() -> Iterator[dist.ProcessGroup]:
    dist.init_process_group("fake", store=fake_store(), rank=0, world_size=1)  # gloo's threads would break later forks
    assert dist.group.WORLD is not None
    yield dist.group.WORLD
    dist.destroy_process_group()


def staged(whole: nn.Module) -> StageModule:
    stages = [build_stage(whole, plan(), 0, 1)]
    return StageModule(stages, stages, (0,), 1, [*whole.state_dict()])


@pytest.mark.parametrize("name", ["gpipe", "1f1b"])
def test_it_computes_what_the_model_does(name: str, group: dist.ProcessGroup) -> None:
    whole, other = model(), model()
    schedules, stages = PipelineSchedules(name, group), staged(other)
    inputs, targets = torch.randint(30, (2, 4, 8))
    (expected := next_token(whole(inputs), targets)).backward()
    losses = schedules.train(stages, inputs, targets, 4, next_token)
    assert len(losses) == 4 and float(sum(losses).detach()) == pytest.approx(expected.item())
    for (key, wanted), (_, found) in zip(whole.named_parameters(), other.named_parameters(), strict=True):
        assert torch.allclose(wanted.grad, found.grad, atol=1e-6), key
    with torch.no_grad():
        assert torch.allclose(schedules.forward(stages, inputs, 2), whole(inputs), atol=1e-5)


def test_a_schedule_is_built_once_for_each_shape(group: dist.ProcessGroup) -> None:
    schedules, stages = PipelineSchedules("gpipe", group), staged(model())
    for size in (4, 4, 2, 4):
        schedules.train(stages, *torch.randint(30, (2, size, 8)), 2, next_token)
    assert len(schedules._cache) == 2
