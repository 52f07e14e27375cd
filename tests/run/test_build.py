"""From a configuration to objects."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from runs import config

from dcp_runner.checkpoint.topology import Topology
from dcp_runner.data.central import CentralFeed
from dcp_runner.data.feed import IndependentFeed
from dcp_runner.run.build import build_callbacks, build_data, build_parts, topology_of
from dcp_runner.train.callbacks import Callback
from dcp_runner.train.parallel.config import ParallelConfig
from dcp_runner.train.parallel.single import Single


def test_only_axes_with_a_degree_above_one_are_in_the_mesh() -> None:
    topology = topology_of(ParallelConfig(pp=2, dp=1, tp=3))
    assert topology.mesh == {"pp": 2, "tp": 3} and topology.world_size == 6
    assert topology_of(ParallelConfig()).world_size == 1


def test_the_same_weights_each_time_and_none_on_the_meta_device() -> None:
    first, again, meta = (build_parts(config(), Topology(1), torch.device(kind)) for kind in ("cpu", "cpu", "meta"))
    torch.rand(3)
    weights = again.model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in first.model.state_dict().items())
    assert all(value.is_meta for value in meta.model.state_dict().values())
    assert first.optimizer.param_groups[0]["weight_decay"] == 0.1


def test_frozen_parameters_are_not_optimized() -> None:
    parts = build_parts(config(model={"_target_": "test_build.HalfFrozen"}), Topology(1), torch.device("cpu"))
    assert parts.optimizer.param_groups[0]["params"] == [parts.model.bias]


class HalfFrozen(torch.nn.Linear):
    def __init__(self) -> None:
        super().__init__(2, 2)
        self.weight.requires_grad_(False)


@pytest.mark.parametrize(
    ("changes", "kind", "evaluates"),
    [
        ({}, CentralFeed, True),
        ({"data__dispatch": "independent"}, IndependentFeed, True),
        ({"data__eval": None}, CentralFeed, False),
        ({"trainer__eval_every": None}, CentralFeed, False),
    ],
)
def test_the_data_of_a_rank(changes: dict[str, Any], kind: type, evaluates: bool) -> None:
    data = build_data(config(**changes), Topology(1), 0, Single())
    assert type(data.feed) is kind and data.feed.batch_size == 8
    assert (data.evaluation is not None) is evaluates
    if data.evaluation is not None:
        assert sum(samples for _, samples in data.evaluation()) == 10


def test_a_callback_with_a_declared_sharing_is_a_component_of_its_own() -> None:
    node = {"_target_": "dcp_runner.train.callbacks.Callback"}
    callbacks = build_callbacks(config(callbacks={"a": node, "b": node}, sharing={"b": "per_rank"}))
    assert [*callbacks.by_name] == ["a", "b"] and [*callbacks.separate] == ["b"]
    assert all(isinstance(callback, Callback) for callback in callbacks.by_name.values())
