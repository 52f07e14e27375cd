"""One rank trains the model as it is."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dcp_runner.train.parallel.mesh import RankMesh
from dcp_runner.train.parallel.single import Single
from dcp_runner.train.parallel.split_plan import SplitPlan


def test_the_model_is_not_wrapped_and_a_step_leaves_the_gradients_of_the_mean() -> None:
    strategy, model = Single(), nn.Linear(2, 1, bias=False)
    assert strategy.wrap(model, RankMesh(torch.device("cpu")), SplitPlan()) is model and strategy.axes == ()
    batches = [(torch.tensor([[1.0, 0.0]]), 0.0), (torch.tensor([[0.0, 3.0]]), 0.0)]
    loss = strategy.step(model, batches, lambda outputs, targets: outputs.sum())
    weight = model.weight.detach()[0]
    assert loss is not None and not loss.requires_grad
    assert float(loss) == pytest.approx(float(weight[0] + 3 * weight[1]) / 2)
    assert model.weight.grad is not None and model.weight.grad.tolist() == [[0.5, 1.5]]
    assert float(strategy.grad_norm(model)) == pytest.approx(2.5**0.5)
