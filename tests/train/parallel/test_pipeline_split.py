"""The stages are the split model: nothing is missing or duplicated, and run in order they compute the same."""

from __future__ import annotations

import pytest
import torch
from split_models import model, plan
from torch import Tensor

from dcp_runner.train.parallel.pipeline_split import build_stage, validate_split


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_stages_are_the_model(count: int) -> None:
    whole = model()
    stages = [build_stage(whole, plan(), number, count) for number in range(count)]
    names = [name for stage in stages for name, _ in stage.named_parameters()]
    assert sorted(names) == sorted(name for name, _ in whole.named_parameters())
    parameters = dict(whole.named_parameters())
    assert all(parameters[name] is one for stage in stages for name, one in stage.named_parameters())
    sizes = [len(stage.blocks) for stage in stages]
    assert max(sizes) - min(sizes) <= 1 and sum(sizes) == 5
    x: Tensor = (tokens := torch.randint(30, (2, 8)))
    for stage in stages:
        x = stage(x)
    assert torch.equal(x, whole(tokens))


def test_tied_weights_may_stay_in_one_stage_only() -> None:
    tied = model(tied=True)
    assert [*validate_split(tied, plan(), 1)] == []
    (told,) = validate_split(tied, plan(), 2)
    assert told.startswith("parallel.pp: embed.weight and head.weight are one tied parameter")
