"""Who claims something else than the majority: the same answer on every rank."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcp_runner.checkpoint.sync.claims import disagreements, minority


@pytest.mark.parametrize(
    ("labels", "outliers"),
    [
        ("aab", [2]),
        ("baa", [0]),
        ("aaab", [3]),
        ("abab", [0, 1, 2, 3]),
        ("ab", [0, 1]),
        ("abc", [0, 1, 2]),
        ("aabc", [2, 3]),
        ("aabbc", [0, 1, 2, 3, 4]),
        ("a", []),
        ("aaa", []),
    ],
)
def test_the_minority_is_not_with_the_majority_and_on_a_tie_is_all(labels: str, outliers: Sequence[int]) -> None:
    assert list(minority(list(enumerate(labels)))) == outliers


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=8), st.randoms())
def test_blame_does_not_depend_on_the_order_of_the_ranks(labels: list[str], draw: random.Random) -> None:
    claims = list(enumerate(labels))
    expected = set(minority(claims))
    draw.shuffle(claims)
    assert set(minority(claims)) == expected


@pytest.mark.parametrize(
    ("claims", "texts"),
    [
        ([], []),
        ([{"a": "1"}] * 3, []),
        ([{"a": "1"}, {"a": "1"}, {"a": "2"}], ["a differs on rank 2 (rank 0-1: 1; rank 2: 2)"]),
        ([{"a": "1"}, {"a": "2"}], ["a differs between ranks (rank 0: 1; rank 1: 2)"]),
        ([{"a": "1"}, {}, {"a": "1"}], ["a differs on rank 1 (rank 0,2: 1; rank 1: absent)"]),
        (
            [{"b": "1", "a": "1"}, {"b": "1", "a": "1"}, {"b": "3", "a": "2"}],
            ["a differs on rank 2 (rank 0-1: 1; rank 2: 2)", "b differs on rank 2 (rank 0-1: 1; rank 2: 3)"],
        ),
    ],
)
def test_a_disagreement_names_the_outliers_and_what_each_rank_claims(
    claims: Sequence[Mapping[str, str]], texts: Sequence[str]
) -> None:
    assert [str(found) for found in disagreements(claims)] == texts
