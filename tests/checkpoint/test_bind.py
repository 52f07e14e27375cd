"""Components in a topology: their sharing, their validation, and all that is wrong with them at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from solo import Box
from torch import nn

from dcp_runner import SharingPattern, StateComponent, Topology
from dcp_runner.checkpoint.bind import bind
from dcp_runner.checkpoint.component import WithTraits
from dcp_runner.checkpoint.config import Validation
from dcp_runner.checkpoint.sharing import SharingTraits
from dcp_runner.checkpoint.state.rng import RngState

P = SharingPattern


def test_all_that_is_wrong_with_the_components_is_told_at_once() -> None:
    components = [StateComponent("a", Box()), StateComponent("a", Box()), StateComponent("b", Box(), "per_group:pp")]
    with pytest.raises(ValueError) as failure:
        bind(components, Topology(2), 0, validation_for={"c": "quick"})
    assert all(
        word in str(failure.value)
        for word in (
            "key 'a' is used by several components",
            "'b'",
            "mesh axis pp",
            "validation_for names 'c', but no component",
        )
    )


@pytest.mark.parametrize(
    ("options", "validation_for", "level", "checked"),
    [
        ({}, {}, "tensor", True),
        ({"validation_level": "full"}, {}, "full", True),
        ({"validation_level": "full"}, {"x": "quick"}, "quick", True),
        ({"validate_replication": False}, {"x": "full"}, "none", False),
        ({"validation_level": "none"}, {}, "none", False),
        ({"sharing_pattern": P.GLOBAL}, {}, "tensor", False),
        ({"sharing_pattern": P.PER_RANK}, {}, "tensor", False),
        ({"sharing_pattern": P.PER_NODE}, {}, "tensor", False),
        ({"sharing_pattern": "per_group:dp"}, {}, "tensor", True),
    ],
)
def test_how_well_a_component_is_checked(
    options: dict[str, Any], validation_for: Any, level: str, checked: bool
) -> None:
    bound = bind([StateComponent("x", Box(), **options)], Topology(2), 0, "tensor", validation_for)[0]
    assert (bound.validation, bound.compares_values) == (Validation(level), checked)


def test_what_live_objects_show_of_how_they_are_held() -> None:
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    described = WithTraits(Box(), SharingTraits("read on every rank", frozenset({"dp"})))
    components = [
        StateComponent(key, one)
        for key, one in {"m": model, "o": optimizer, "r": RngState(), "b": Box(), "d": described}.items()
    ]
    bound = {one.key: one for one in bind(components, Topology(1), 0)}
    assert {key: str(one.resolved.sharing) for key, one in bound.items()} == {
        "m": "global",
        "o": "global",
        "r": "per_rank",
        "b": "replicated",
        "d": "per_rank",
    }
    assert bound["m"].resolved.reason == "one rank holds it" and bound["d"].resolved.reason == "read on every rank"


def test_an_unknown_level_is_named_with_the_component() -> None:
    with pytest.raises(ValueError, match="invalid component declarations:\n  component 'x': 'tensr' is not a valid"):
        bind([StateComponent("x", Box())], Topology(1), 0, validation_for={"x": "tensr"})


def test_an_unsharded_tensor_is_shared_more_widely_than_its_sharded_component() -> None:
    """Rank 5 of pp=2 x dp=2 x tp=2, of a component that is sharded along tp and replicated along dp."""
    topology = Topology(8, {"pp": 2, "dp": 2, "tp": 2})
    traits = SharingTraits("stages and shards", names_vary_along=frozenset({"pp"}))
    component = StateComponent("x", WithTraits(Box(), traits))
    bound = bind([component], topology, 5)[0].with_sharded_axes(frozenset({"tp"}))
    assert str(bound.resolved.sharing) == "per_group:dp" and bound.own_copy.holders == (5, 7)
    assert str(bound.sharing_of_tensor(frozenset({"tp"}))) == "per_group:dp"
    assert str(bound.sharing_of_tensor(frozenset())) == "per_group:dp+tp"
    assert [copy.holders for copy in bound.wider_copies()] == [(4, 6)]
    assert bound.declaration == "per_group:dp, sharded along tp, validation tensor, on_missing_copy error"
    declared = replace(bound, component=replace(component, sharing_pattern="per_rank"))
    assert declared.with_sharded_axes(frozenset({"dp"})).resolved is bound.resolved, "only auto decides again"
