"""DistributedDataParallel where there are replicas, and only there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from dcp_runner.common.torch_private import fake_store
from dcp_runner.train.parallel.ddp import DataParallel
from dcp_runner.train.parallel.mesh import RankMesh
from dcp_runner.train.parallel.split_plan import SplitPlan

CPU = torch.device("cpu")


@pytest.fixture
def replicas() -> Iterator[RankMesh]:
    dist.init_process_group("fake", store=fake_store(), rank=0, world_size=1)  # gloo's threads would break later forks
    yield RankMesh(CPU, init_device_mesh("cpu", (1,), mesh_dim_names=("dp",)))
    dist.destroy_process_group()


def test_one_rank_is_not_wrapped() -> None:
    model = nn.Linear(2, 2)
    assert DataParallel().wrap(model, RankMesh(CPU), SplitPlan()) is model


def test_options_reach_torch_and_gradients_stay_until_the_last_micro_batch(replicas: RankMesh) -> None:
    strategy = DataParallel(bucket_cap_mb=3, gradient_as_bucket_view=True)
    model = strategy.wrap(nn.Linear(2, 2), replicas, SplitPlan())
    assert isinstance(model, DistributedDataParallel) and model.gradient_as_bucket_view
    assert model.require_backward_grad_sync
    with strategy.no_sync(model):
        assert not model.require_backward_grad_sync
    with strategy.no_sync(model.module):
        pass


def test_an_unknown_option_is_torchs_own_error(replicas: RankMesh) -> None:
    with pytest.raises(TypeError, match="bucket_cap"):
        DataParallel(bucket_cap=3).wrap(nn.Linear(2, 2), replicas, SplitPlan())
