"""Every epoch is a permutation, each its own, and any place in it is found at the same cost."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcp_runner.data import order as order_module
from dcp_runner.data.hash import mix
from dcp_runner.data.order import Order


def epoch_of(order: Order, epoch: int) -> list[int]:
    return [order.at(epoch * order.length + position)[1] for position in range(order.length)]


@given(
    length=st.integers(1, 300), seed=st.integers(-(2**70), 2**70), epoch=st.integers(0, 10**9), shuffle=st.booleans()
)
def test_an_epoch_has_every_index_once(length: int, seed: int, epoch: int, shuffle: bool) -> None:
    assert sorted(epoch_of(Order(length, seed, shuffle), epoch)) == list(range(length))


@pytest.mark.parametrize("length", [1, 2, 3, 1000, 1024, 1_000_003])
def test_epochs_are_counted_across_their_borders(length: int) -> None:
    order = Order(length, seed=1, shuffle=True)
    assert [order.at(sample)[0] for sample in (0, length - 1, length, 3 * length - 1)] == [0, 0, 1, 2]


def test_unshuffled_is_the_order_of_the_data_set() -> None:
    order = Order(3, seed=1, shuffle=False)
    assert [order.at(sample) for sample in range(5)] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]


def test_epochs_and_seeds_differ_and_the_same_ones_agree() -> None:
    order = Order(100, seed=1, shuffle=True)
    assert epoch_of(order, 0) == epoch_of(Order(100, seed=1, shuffle=True), 0)
    different = [epoch_of(order, 0), epoch_of(order, 1), epoch_of(Order(100, 2, True), 0), list(range(100))]
    assert len({tuple(epoch) for epoch in different}) == 4


def test_the_order_is_the_same_on_every_machine_and_in_every_version() -> None:
    """A change here changes what every saved data position means."""
    assert epoch_of(Order(10, seed=0, shuffle=True), 0) == [3, 6, 4, 2, 9, 1, 0, 7, 5, 8]
    assert mix(1, 2, 3) == 15020427595393229491
    assert mix(0) == 0xE220A8397B1DCDAF, "the first number of SplitMix64 with seed 0"


@pytest.mark.parametrize("length", [2, 3, 4])
def test_all_permutations_are_about_equally_likely(length: int) -> None:
    epochs = 3000
    order = Order(length, seed=1, shuffle=True)
    counts = Counter(tuple(epoch_of(order, epoch)) for epoch in range(epochs))
    expected = epochs / len(list(permutations(range(length))))
    assert all(abs(counts[each] - expected) < 4 * expected**0.5 for each in permutations(range(length))), counts


def test_the_first_sample_and_its_successor_are_about_uniform() -> None:
    length, epochs = 10, 4000
    order = Order(length, seed=1, shuffle=True)
    pairs = Counter((order.at(e * length)[1], order.at(e * length + 1)[1]) for e in range(epochs))
    expected = epochs / (length * (length - 1))
    squares = sum((pairs[i, j] - expected) ** 2 / expected for i in range(length) for j in range(length) if i != j)
    assert squares < 89 + 5 * (2 * 89) ** 0.5, "chi squared of 90 equally likely pairs"


@pytest.mark.parametrize("length", [86_000, 1_000_003])
def test_a_late_sample_costs_as_much_as_an_early_one(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def counted(*words: int) -> int:
        nonlocal calls
        calls += 1
        return mix(*words)

    monkeypatch.setattr(order_module, "mix", counted)
    order = Order(length, seed=1, shuffle=True)
    for start in (10, 10_000_000, 10**15):
        calls = 0
        for sample in range(start, start + 100):
            order.at(sample)
        assert calls < 100 * 10


def test_an_empty_data_set_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 item, found 0"):
        Order(0, seed=1, shuffle=True)
