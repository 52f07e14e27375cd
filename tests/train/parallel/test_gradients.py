"""The norm of all gradients, and clipping by it, where plain tensors and DTensors are mixed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from dcp_runner.common.torch_private import fake_store
from dcp_runner.train.parallel.gradients import clip_gradients, total_norm


@pytest.fixture
def process_group() -> Iterator[None]:
    dist.init_process_group("fake", store=fake_store(), rank=0, world_size=1)  # gloo's threads would break later forks
    yield
    dist.destroy_process_group()


def test_of_both_kinds_together(process_group: None) -> None:
    mesh = init_device_mesh("cpu", (1,), mesh_dim_names=("tp",))
    plain, unused = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    sharded = nn.Parameter(distribute_tensor(torch.zeros(2), mesh, [Shard(0)]))
    plain.grad, sharded.grad = torch.tensor([3.0, 0.0]), distribute_tensor(torch.tensor([0.0, 4.0]), mesh, [Shard(0)])
    parameters = [plain, unused, sharded]
    norm = total_norm(parameters)
    assert type(norm) is torch.Tensor and norm == 5
    clip_gradients(parameters, 10.0, norm)
    assert plain.grad.tolist() == [3, 0], "nothing is larger than the limit"
    clip_gradients(parameters, 1.0, norm)
    assert plain.grad.tolist() == pytest.approx([0.6, 0])
    assert sharded.grad.full_tensor().tolist() == pytest.approx([0, 0.8])
    assert unused.grad is None


def test_without_gradients_it_is_zero() -> None:
    assert total_norm([nn.Parameter(torch.ones(1))]) == 0
