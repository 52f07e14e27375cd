"""What a declaration means, what `auto` decides, and why."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcp_runner import SharingPattern, Topology
from dcp_runner.checkpoint.sharing import Sharing, SharingTraits, parse_sharing, resolve

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
