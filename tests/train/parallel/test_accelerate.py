"""Accelerate on one rank: it keeps the threads and the environment, and trains like the loop without it."""

from __future__ import annotations

import os

import pytest
import torch
from torch import nn

from dcp_runner.train.parallel.mesh import RankMesh
from dcp_runner.train.parallel.split_plan import SplitPlan

pytest.importorskip("accelerate")


def test_model_backward_and_optimizer_are_prepared() -> None:
    from accelerate.optimizer import AcceleratedOptimizer

    from dcp_runner.train.parallel.accelerate import Accelerate

    environment, threads = dict(os.environ), torch.get_num_threads()
    strategy, model = Accelerate(), nn.Linear(2, 1, bias=False)
    wrapped = strategy.wrap(model, RankMesh(torch.device("cpu")), SplitPlan())
    optimizer = strategy.prepare_optimizer(torch.optim.SGD(wrapped.parameters(), lr=1.0))
    assert isinstance(optimizer, AcceleratedOptimizer)
    strategy.step(wrapped, [(torch.tensor([[1.0, 2.0]]), None)], lambda outputs, _: outputs.sum())
    before = model.weight.detach().clone()
    optimizer.step()
    assert torch.allclose(before - model.weight.detach(), torch.tensor([[1.0, 2.0]]))
    assert dict(os.environ) == environment and torch.get_num_threads() == threads


def test_without_data_it_is_plain_torch() -> None:
    from dcp_runner.train.parallel.accelerate import Accelerate

    strategy = Accelerate()
    with torch.device("meta"):
        model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    assert strategy.wrap(model, RankMesh(torch.device("meta")), SplitPlan()) is model
    assert strategy.prepare_optimizer(optimizer) is optimizer
