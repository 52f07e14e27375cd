"""A saved tensor without a live counterpart is sharded like the model's of the same name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from fake_ranks import rank_of_mesh
from torch import nn

from dcp_runner import Topology
from dcp_runner.checkpoint.state.dtensor import is_dtensor
from dcp_runner.checkpoint.state.like_model import like_live, like_models
from dcp_runner.checkpoint.state.modules import ModelState

SAVED = ["ema/shadow/0.weight"]


@pytest.fixture(scope="module")
def model() -> Iterator[ModelState]:
    """Two layers; the weight of the first is sharded over fsdp=2."""
    with rank_of_mesh(0, (2,), ("fsdp",)) as mesh:
        from torch.distributed.tensor import DTensor, Shard

        module = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4))
        shard = DTensor.from_local(torch.zeros(2, 3), mesh, [Shard(0)], run_check=False)
        module[0].weight = nn.Parameter(shard)
        yield ModelState(module, "model", Topology(2, {"fsdp": 2}))


@pytest.mark.parametrize(
    ("path", "shape", "found"),
    [
        ("ema/shadow/0.weight", (4, 3), True),
        ("0.weight", (4, 3), True),
        ("ema/module.0.weight", (4, 3), True),
        ("ema/shadow/0.weight", (3, 4), False),
        ("ema/shadow/1.weight", (4, 4), False),
        ("ema/0.weight/mean", (4, 3), False),
    ],
)
def test_a_reference_has_the_name_and_the_shape(path: str, shape: tuple[int, ...], found: bool, model: Any) -> None:
    find = like_models([(model, {"0.weight"})], {path})
    assert is_dtensor(find(path, shape, None)) is found and find(path, shape, None if found else "live") is not None


def test_a_live_tensor_is_its_own_reference(model: Any) -> None:
    live = torch.ones(4, 3)
    assert like_models([(model, {"0.weight"})], SAVED)(SAVED[0], (4, 3), live) is live
    assert like_live(SAVED[0], (4, 3), live) is live and like_live("a", (), None) is None


def test_full_copies_of_sharded_weights_stay_full(model: Any) -> None:
    assert like_models([(model, {"0.weight"})], ())(SAVED[0], (4, 3), None) is None
    assert like_models([(model, ())], SAVED)(SAVED[0], (4, 3), None) is None
    assert like_models([(model, ())], ())(SAVED[0], (4, 3), None) is not None
