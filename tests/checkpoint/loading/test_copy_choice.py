"""Which copy is loaded: the same on every rank, from the topology alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from dcp_runner.checkpoint.loading.copy_choice import choose_copies

STAGES, ONE, RANKS = ["pp-0", "pp-1"], ["all"], ["rank-00000", "rank-00001"]


@pytest.mark.parametrize("policy", ["error", "fresh", "first"])
@pytest.mark.parametrize("names", [STAGES, ONE, RANKS])
def test_the_same_copies_are_loaded_each_by_its_holders_whatever_the_policy(names: Sequence[str], policy: Any) -> None:
    found = choose_copies(names, reversed(names), policy)
    assert {name: (source.copy, source.action) for name, source in found.items()} == {
        name: (name, "loaded") for name in names
    }


@pytest.mark.parametrize(
    ("saved", "live"), [(ONE, RANKS), (RANKS, ONE), (RANKS, RANKS[:1]), (RANKS[:1], RANKS), (STAGES, ["tp-0", "tp-1"])]
)
def test_other_copies_are_an_error_or_fresh_or_the_first_for_all_alike(saved: list[str], live: list[str]) -> None:
    assert {source.copy for source in choose_copies(saved, live, "fresh").values()} == {None}
    first = choose_copies(saved, live, "first")
    assert {(source.copy, source.action) for source in first.values()} == {
        (saved[0], f"loaded from {saved[0]}")
    } and list(first) == live
    with pytest.raises(ValueError) as failure:
        choose_copies(saved, live, "error")
    text = str(failure.value)
    assert all(name in text for name in set(saved) ^ set(live)) and "on_missing_copy" in text
    assert ("missing " in text) is bool(set(live) - set(saved)) and ("unused " in text) is bool(set(saved) - set(live))


def test_many_lacking_copies_are_counted() -> None:
    with pytest.raises(ValueError, match="rank-00005 and 4 more"):
        choose_copies(ONE, [f"rank-{rank:05d}" for rank in range(10)], "error")
