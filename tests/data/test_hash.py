"""The hash that orders and seeds samples."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dcp_runner.data.hash import mix

words = st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=4)


@given(words, st.integers(0, 3), st.integers(1, 2**63))
def test_every_word_counts_and_so_does_their_order(numbers: list[int], place: int, change: int) -> None:
    other = list(numbers)
    other[place % len(other)] ^= change
    assert 0 <= mix(*numbers) < 2**64 and mix(*other) != mix(*numbers)
    if numbers != numbers[::-1]:
        assert mix(*numbers) != mix(*numbers[::-1])


def test_the_values_never_change() -> None:
    """They are the order of the samples in every checkpoint."""
    assert mix(0) == 0xE220A8397B1DCDAF, "the first output of SplitMix64 with seed 0"
    assert mix(1, 2, 3) == mix(1, 2, 3) != mix(1, 2)
