"""Fingerprints by themselves; that a comparison finds every difference is in test_compare.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dcp_runner.checkpoint.digest import digest_tensor
from dcp_runner.checkpoint.state.fingerprints import (
    LeafFingerprint,
    combined_digest,
    equivalent,
    fingerprints,
    layout_fingerprints,
)
from dcp_runner.checkpoint.state.flatten import flatten


def table(state: Any) -> dict[str, LeafFingerprint]:
    flat = flatten(state)
    return fingerprints(flat, {name: digest_tensor(tensor) for name, tensor in flat.tensors.items()})


@pytest.mark.parametrize(
    ("other", "alike"),
    [
        ({"w": torch.ones(2), "n": 2}, True),
        ({"w": torch.zeros(2)}, True),
        ({"w": torch.zeros(2, 1)}, False),
        ({"w": torch.zeros(2, dtype=torch.int32)}, False),
        ({"v": torch.zeros(2)}, False),
        ({"w": torch.zeros(2), "v": torch.zeros(2)}, False),
    ],
)
def test_layouts_are_the_names_dtypes_and_shapes_of_tensors(other: Any, alike: bool) -> None:
    layouts = [layout_fingerprints(flatten(state)) for state in ({"w": torch.zeros(2), "n": 1}, other)]
    assert (layouts[0] == layouts[1]) is alike


def test_the_order_of_keys_does_not_matter_and_ties_do() -> None:
    weight = torch.ones(2)
    assert combined_digest(table({"a": 1, "b": weight})) == combined_digest(table({"b": weight, "a": 1}))
    tied, copied = table({"a": weight, "b": weight}), table({"a": weight, "b": weight.clone()})
    assert tied["a"] == copied["a"] and not equivalent(tied["b"], copied["b"])


def test_a_python_number_may_equal_a_0d_tensor_but_two_tensors_need_equal_bits() -> None:
    number, single, double = (
        table(value)["~"] for value in (0.5, torch.tensor(0.5), torch.tensor(0.5, dtype=torch.float64))
    )
    assert equivalent(number, single) and equivalent(double, number) and not equivalent(single, double)
