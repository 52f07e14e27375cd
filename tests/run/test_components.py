"""The components of a run, and how the data position and the generators are shared."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from noisy_items import Noisy, generator_states, independent
from runs import config

from dcp_runner.checkpoint.sharing import SharingPattern
from dcp_runner.checkpoint.topology import Topology
from dcp_runner.config.schema import Dispatch
from dcp_runner.run.build import build_callbacks, build_parts
from dcp_runner.run.components import DatasetPosition, StreamRng, components_of, dataset_traits
from dcp_runner.train.parallel.single import Single
from dcp_runner.train.progress import Progress


def test_their_keys_order_and_declarations() -> None:
    node = {"_target_": "test_components.Counting"}
    made = config(callbacks={"ema": node}, sharing={"ema": "per_rank", "model": "replicated"})
    parts = build_parts(made, Topology(1), torch.device("meta"))
    components = components_of(made, parts, independent(Noisy(9)), Progress(), build_callbacks(made))
    declared = {component.key: component.declared for component in components}
    keys = ["model", "optimizer", "scheduler", "dataset", "progress", "callbacks", "ema", "rng"]
    assert [*declared] == keys, "a load must not draw random numbers after it has restored the generators"
    assert (declared["model"], declared["ema"], declared["optimizer"]) == ("replicated", "per_rank", "auto")
    missing = {component.key: component.on_missing_copy for component in components}
    assert (missing["dataset"], missing["rng"], missing["model"]) == ("first", "fresh", "error")
    assert [component.key for component in components if not component.required] == ["ema"]


class Counting:
    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


@pytest.mark.parametrize(
    ("world", "dispatch", "pattern", "axes"),
    [
        (1, Dispatch.independent, SharingPattern.GLOBAL, set()),
        (2, Dispatch.central, SharingPattern.GLOBAL, set()),
        (2, Dispatch.independent, None, {"dp", "fsdp"}),
    ],
)
def test_how_the_data_position_is_shared(world: int, dispatch: Dispatch, pattern: Any, axes: set[str]) -> None:
    traits = dataset_traits(dispatch, Single(), Topology(world))
    assert traits.pattern is pattern and set(traits.varies_along) == axes


def test_a_position_in_another_order_is_reported_before_the_load() -> None:
    feed = independent(Noisy(50))
    position = DatasetPosition(feed, dataset_traits(Dispatch.central, Single(), Topology(1)))
    assert position.differences(feed.state_dict()).mismatched == []
    (wrong,) = position.differences(feed.state_dict() | {"seed": 9}).mismatched
    assert "seed 9 in the checkpoint, 5 now" in wrong and "resume_skip=[dataset]" in wrong


def test_ranks_that_differ_only_along_tp_draw_the_same_numbers() -> None:
    topology = Topology(4, {"dp": 2, "tp": 2})
    before, rng = generator_states(), StreamRng(3, topology)
    states = []
    for rank in range(4):
        rng.reset(5, rank)
        states.append(generator_states())
    assert states[0] == states[1] != states[2] == states[3] and before not in states
