"""Tree specs of the parts of one state, merged."""

from __future__ import annotations

from typing import Any

import pytest

from dcp_runner.checkpoint.state.merge import merge, select


def test_skeletons_are_united() -> None:
    leaf: dict[str, Any] = {"$": "tensor"}
    one = {"state": {"a": {"step": leaf}}, "options": {"a": {"lr": 0.1}}}
    other = {"state": {"b": {"step": leaf}}, "options": {"b": {"lr": 0.2}, "a": {"lr": 0.1}}}
    both = {"state": {"a": {"step": leaf}, "b": {"step": leaf}}, "options": {"a": {"lr": 0.1}, "b": {"lr": 0.2}}}
    assert merge([one, other]) == both
    ordered: list[Any] = [{"$": "OrderedDict", "metadata": {k: 1}, "v": {k: leaf}} for k in "ab"]
    assert merge(ordered) == {"$": "OrderedDict", "metadata": {"a": 1, "b": 1}, "v": {"a": leaf, "b": leaf}}
    assert select(merge(ordered), lambda keys: keys != ("a",))["v"] == {"b": leaf}


@pytest.mark.parametrize(
    ("one", "other", "place"),
    [
        ({"a": 1}, {"a": 2}, "a"),
        ({"a": [1]}, {"a": [1, 2]}, "a"),
        ({"a": {"b": 1}}, {"a": {"b": True}}, "a/b"),
        (1, 2, "itself"),
    ],
)
def test_other_values_of_one_name_are_no_parts_of_one_state(one: Any, other: Any, place: str) -> None:
    with pytest.raises(ValueError, match=place):
        merge([one, other])
