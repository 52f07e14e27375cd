"""What a declaration means, what `auto` decides, and why."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from solo import Box
from torch import nn

from dcp_runner import SharingPattern, StateComponent, Topology
from dcp_runner.checkpoint.bind import bind
from dcp_runner.checkpoint.component import WithTraits
from dcp_runner.checkpoint.config import Validation
from dcp_runner.checkpoint.sharing import Sharing, SharingTraits, parse_sharing, resolve
from dcp_runner.checkpoint.state.rng import RngState

P = SharingPattern


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("global", Sharing(P.GLOBAL)),
        ("replicated", Sharing(P.REPLICATED)),
        ("per_rank", Sharing(P.PER_RANK)),
        ("per_node", Sharing(P.PER_NODE)),
        ("per_group:dp", Sharing(P.PER_GROUP, ("dp",))),
        ("per_group:dp+tp", Sharing(P.PER_GROUP, ("dp", "tp"))),
        (" Per_Group: dp + tp ", Sharing(P.PER_GROUP, ("dp", "tp"))),
        ("GLOBAL", Sharing(P.GLOBAL)),
    ],
)
def test_spellings(text: str, expected: Sharing) -> None:
    assert parse_sharing(text) == expected and parse_sharing(str(expected)) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "unknown sharing"),
        ("auto", "unknown sharing"),
        ("replicate", "expected auto, global, replicated, per_rank, per_node or per_group:<axes>"),
        ("per-rank", "unknown sharing"),
        ("per_group", "per_group, and no other pattern, names mesh axes"),
        ("per_group:", "names mesh axes"),
        ("per_group:dp+", "names mesh axes"),
        ("per_group:dp+dp", "names mesh axes"),
        ("global:dp", "names mesh axes"),
        ("per_rank:", "names mesh axes"),
    ],
)
def test_misspellings_are_refused_with_the_right_ones(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_sharing(text)


MESH = ("pp", "dp", "tp")
PLAIN = SharingTraits("plain")


@pytest.mark.parametrize(
    ("declared", "traits", "axes", "sharing", "reason"),
    [
        ("auto", PLAIN, MESH, "replicated", "plain"),
        ("auto", PLAIN, (), "replicated", "plain"),
        ("auto", SharingTraits("stages", frozenset({"pp"})), MESH, "per_group:dp+tp", "stages"),
        ("auto", SharingTraits("cut", frozenset({"pp", "tp"})), MESH, "per_group:dp", "cut"),
        ("auto", SharingTraits("own", frozenset(MESH)), MESH, "per_rank", "own"),
        ("auto", SharingTraits("shards", frozenset({"dp"})), ("dp",), "per_rank", "shards"),
        ("auto", SharingTraits("elsewhere", frozenset({"fsdp"})), ("dp",), "replicated", "elsewhere"),
        ("auto", SharingTraits("fixed", frozenset({"pp"}), P.GLOBAL), MESH, "global", "fixed"),
        ("per_rank", SharingTraits("fixed", pattern=P.GLOBAL), MESH, "per_rank", "declared"),
        ("per_group:tp+dp", PLAIN, MESH, "per_group:tp+dp", "declared"),
        ("per_node", PLAIN, (), "per_node", "declared"),
    ],
)
def test_the_decision_and_its_reason(
    declared: str, traits: SharingTraits, axes: tuple[str, ...], sharing: str, reason: str
) -> None:
    found = resolve(declared, traits, axes)
    assert (str(found.sharing), found.reason) == (sharing, reason)


@given(st.sets(st.sampled_from(MESH)))
def test_auto_spans_exactly_the_axes_along_which_nothing_varies(varying: set[str]) -> None:
    """Whatever it is called, two ranks share a copy if and only if they differ along no varying axis."""
    topology = Topology(8, {"pp": 2, "dp": 2, "tp": 2})
    sharing = resolve("auto", SharingTraits("", frozenset(varying)), MESH).sharing
    for one in range(8):
        for other in range(8):
            places = topology.coordinates(one), topology.coordinates(other)
            together = all(places[0][axis] == places[1][axis] for axis in varying)
            assert (topology.copy_of(sharing, one) == topology.copy_of(sharing, other)) is together


@pytest.mark.parametrize(
    ("declared", "axes", "words"),
    [
        ("per_group:pp+ep", ("dp", "pp"), "names mesh axis ep; this topology has dp, pp"),
        ("per_group:dp", (), "names mesh axis dp; this topology has none"),
        ("sometimes", ("dp",), "unknown sharing 'sometimes'"),
    ],
)
def test_a_declaration_that_does_not_fit_is_refused(declared: str, axes: tuple[str, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        resolve(declared, PLAIN, axes)


# -- components --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "group", "declared"),
    [
        (P.PER_GROUP, "dp+tp", "per_group:dp+tp"),
        ("per_group", "dp", "per_group:dp"),
        ("per_group:dp", None, "per_group:dp"),
        ("per_group:dp", "dp", "per_group:dp"),
        (P.GLOBAL, None, "global"),
        ("auto", None, "auto"),
    ],
)
def test_a_pattern_and_its_group_are_one_text(pattern: Any, group: str | None, declared: str) -> None:
    assert StateComponent("x", Box(), pattern, group).declared == declared


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"key": "a/b"}, "cannot name a file"),
        ({"key": ""}, "cannot name a file"),
        ({"key": ".hidden"}, "cannot name a file"),
        ({"key": ".."}, "cannot name a file"),
        ({"key": "a-00001-of-00002"}, "cannot name a file"),
        ({"key": "a\n"}, "cannot name a file"),
        ({"sharing_pattern": P.GLOBAL, "process_group_name": "dp"}, "goes with PER_GROUP"),
        ({"process_group_name": "dp"}, "goes with PER_GROUP"),
        ({"sharing_pattern": "per_group:tp", "process_group_name": "dp"}, "goes with PER_GROUP"),
        ({"on_missing_copy": "guess"}, "on_missing_copy must be one of error, fresh, first"),
    ],
)
def test_contradictions_in_a_component_are_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        StateComponent(**({"key": "x", "stateful": Box()} | arguments))


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
