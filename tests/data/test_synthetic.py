"""Random tokens."""

from __future__ import annotations

import torch

from dcp_runner.data.synthetic import RandomTokens


def test_random_tokens_depend_on_seed_and_index_alone() -> None:
    first, same, other = RandomTokens(5, 8, 50), RandomTokens(9, 8, 50), RandomTokens(5, 8, 50, seed=1)
    assert torch.equal(first[3][0], same[3][0])
    assert not torch.equal(first[3][0], other[3][0]) and not torch.equal(first[3][0], first[2][0])
    assert torch.equal(first[3][0][1:], first[3][1][:-1]) and int(first[3][0].max()) < 50
    assert len([*first]) == 5, "iterating ends"
