"""The samples of a step depend on nothing but the position; a resumed feed goes on where the other one stopped."""

from __future__ import annotations

import multiprocessing
import random
import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from noisy_items import Noisy, generator_states, ids, independent, rows

from dcp_runner.data.feed import Feed, IndependentFeed


def steps(feed: Feed, count: int) -> list[int]:
    return [number for _ in range(count) for number in ids(feed.next())]


def team(parts: int, microbatches: int = 1, length: int = 50, **changes: Any) -> list[IndependentFeed]:
    """The feeds of all parts."""
    return [
        independent(Noisy(length), parts=parts, part=part, microbatches=microbatches, **changes)
        for part in range(parts)
    ]


def team_steps(feeds: list[IndependentFeed], count: int) -> list[int]:
    return [number for _ in range(count) for feed in feeds for number in ids(feed.next())]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("shuffle", [True, False])
def test_resuming_equals_going_on_across_epochs(shuffle: bool, workers: int) -> None:
    whole = independent(Noisy(50), shuffle=shuffle, workers=workers)
    expected = [whole.next() for _ in range(10)]
    first = independent(Noisy(50), shuffle=shuffle, workers=workers)
    got = [first.next() for _ in range(3)]
    second = independent(Noisy(50), shuffle=shuffle, workers=workers)
    second.load_state_dict(first.state_dict())
    got += [second.next() for _ in range(7)]
    assert [ids(step) for step in got] == [ids(step) for step in expected]
    assert all(torch.equal(rows(a), rows(b)) for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize("shuffle", [True, False])
def test_every_item_comes_once_an_epoch(shuffle: bool) -> None:
    numbers = steps(independent(Noisy(50), shuffle=shuffle), 25)  # 300 samples are 6 epochs
    assert Counter(numbers) == {index: 6 for index in range(50)}
    assert (numbers[:50] == numbers[50:100]) is not shuffle


@given(
    length=st.integers(1, 40),
    cuts=st.lists(st.sampled_from([(1, 1), (2, 1), (1, 2), (2, 3), (3, 2), (4, 1)]), min_size=1, max_size=4),
    shuffle=st.booleans(),
)
@settings(max_examples=30, deadline=None)
def test_parts_and_micro_batches_never_change_the_samples(
    length: int, cuts: list[tuple[int, int]], shuffle: bool
) -> None:
    expected = steps(independent(Noisy(length), shuffle=shuffle), 2 * len(cuts))
    got: list[int] = []
    state = independent(Noisy(length), shuffle=shuffle).state_dict()
    for parts, microbatches in cuts:  # a run that is resumed under another topology again and again
        feeds = team(parts, microbatches, length, shuffle=shuffle)
        for feed in feeds:
            feed.load_state_dict(state)
        got += team_steps(feeds, 2)
        states = [feed.state_dict() for feed in feeds]
        assert states == [states[0]] * parts
        state = states[0]
    assert got == expected


def test_four_parts_then_two_then_three_with_workers() -> None:
    expected = steps(independent(Noisy(50)), 9)
    got: list[int] = []
    state = independent(Noisy(50)).state_dict()
    for parts, workers in [(4, 1), (2, 2), (3, 0)]:
        feeds = team(parts, workers=workers)
        for feed in feeds:
            feed.load_state_dict(state)
        got += team_steps(feeds, 3)
        state = feeds[0].state_dict()
    assert got == expected


def test_a_step_is_cut_into_micro_batches_of_the_right_size() -> None:
    feed = team(parts=2, microbatches=3)[1]
    batches = feed.next()
    assert [tuple(inputs.shape) for inputs, _ in batches] == [(2, 4)] * 3
    assert feed.consumed == 12


@pytest.mark.parametrize("make", [lambda: independent(Noisy(50), workers=2), lambda: team(2, 3)[1]])
def test_randomness_inside_items_depends_on_the_sample_alone(make: Callable[[], IndependentFeed]) -> None:
    whole = independent(Noisy(50))
    by_sample = {tuple(row.tolist()) for _ in range(9) for row in rows(whole.next())}
    feed = make()
    seen = {tuple(row.tolist()) for _ in range(9) for row in rows(feed.next())}
    assert seen <= by_sample
    assert len(by_sample) == 108, "an item that comes again in a later epoch has new draws"


@pytest.mark.parametrize("workers", [0, 2])
def test_the_global_generators_stay_where_they_are(workers: int) -> None:
    random.seed(1)
    before = generator_states()
    feed = independent(Noisy(50), workers=workers)
    feed.example()
    for _ in range(5):
        feed.next()
    feed.load_state_dict(feed.state_dict() | {"consumed": 24})
    feed.next()
    feed.close()
    assert generator_states() == before


@pytest.mark.parametrize("consumed", [0, 10, 10_000_000])
def test_resuming_reads_no_more_than_the_next_step(consumed: int) -> None:
    feed = independent(Noisy(1_000_003))
    feed.load_state_dict(feed.state_dict() | {"consumed": consumed})
    feed.next()
    assert feed.dataset.reads == 12
    assert feed.consumed == consumed + 12


def test_what_was_read_ahead_does_not_count() -> None:
    feed = independent(Noisy(50), workers=2)
    feed.next()
    assert feed.state_dict()["consumed"] == 12


@pytest.mark.parametrize("workers", [0, 2])
def test_going_back_in_the_same_feed(workers: int) -> None:
    feed = independent(Noisy(50), workers=workers)
    state, first = feed.state_dict(), [steps(feed, 1) for _ in range(3)]
    feed.load_state_dict(state)
    assert [steps(feed, 1) for _ in range(3)] == first


@pytest.mark.parametrize("workers", [0, 1])
def test_a_step_that_failed_can_be_read_again(workers: int) -> None:
    class Flaky(Noisy):
        broken = True

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            if self.broken and index == 17:
                raise OSError("no such sample today")
            return super().__getitem__(index)

    dataset = Flaky(50)
    feed = independent(dataset, microbatches=3, shuffle=False, workers=workers)
    first = steps(feed, 1)
    with pytest.raises(OSError, match="no such sample today") as failed:
        feed.next()
    traceback.clear_frames(failed.tb)  # they keep the loader that has failed, and its worker
    assert feed.consumed == 12
    dataset.broken = False
    assert first + steps(feed, 2) == list(range(36))
    feed.close()  # the caught error keeps this frame, and with it the feed


def test_the_example_consumes_nothing_and_has_the_shape_of_a_micro_batch() -> None:
    feed = independent(Noisy(50), parts=2, microbatches=2)
    inputs, targets = feed.example()
    assert feed.consumed == 0 and feed.dataset.reads == 1
    assert [(inputs.shape, targets.shape)] == [(a.shape, b.shape) for a, b in feed.next()[:1]]
    assert torch.equal(inputs, feed.example()[0]) and targets.tolist() == [0, 0, 0]


def test_close_ends_the_workers_and_the_feed_goes_on() -> None:
    feed = independent(Noisy(50), workers=2)
    assert not multiprocessing.active_children()
    first = steps(feed, 1)
    assert len(multiprocessing.active_children()) == 2
    feed.close()
    assert not multiprocessing.active_children()
    assert first + steps(feed, 1) == steps(independent(Noisy(50)), 2)
    feed.close()


def test_a_dropped_feed_leaves_no_workers() -> None:
    feed = independent(Noisy(50), workers=2)
    feed.next()
    del feed
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"seed": 6}, "seed 5 in the checkpoint, 6 now"),
        ({"shuffle": False}, "shuffle True in the checkpoint, False now"),
        ({"dataset": Noisy(51)}, "length 50 in the checkpoint, 51 now"),
    ],
)
def test_a_position_in_another_order_is_refused(changes: dict[str, Any], words: str) -> None:
    state = independent(Noisy(50)).state_dict() | {"consumed": 24}
    assert state == {"consumed": 24, "length": 50, "seed": 5, "shuffle": True}
    feed = independent(**({"dataset": Noisy(50)} | changes))
    with pytest.raises(ValueError, match=words) as refused:
        feed.load_state_dict(state)
    assert "consumed=24" in str(refused.value) and "resume_skip=[dataset]" in str(refused.value)
    assert feed.consumed == 0


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"parts": 5}, r"5 \* 1 = 5, found 12"),
        ({"parts": 2, "microbatches": 4}, r"2 \* 4 = 8, found 12"),
        ({"batch_size": 0}, "found 0"),
        ({"microbatches": 0}, r"1 \* 0 = 0, found 12"),
        ({"parts": 2, "part": 2}, "part must be one of 0 to 1, found 2"),
        ({"dataset": Noisy(0)}, "at least 1 item"),
    ],
)
def test_what_cannot_be_cut_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        independent(**({"dataset": Noisy(50)} | changes))


@pytest.mark.parametrize("item, found", [(torch.zeros(2), "Tensor"), ((1, 2, 3), "a tuple of length 3")])
def test_an_item_that_is_no_pair_is_refused(item: Any, found: str) -> None:
    with pytest.raises(ValueError, match=rf"pair \(inputs, targets\), found .*{found}"):
        independent([item], batch_size=1).next()


def test_items_may_be_nested() -> None:
    feed = independent([({"tokens": torch.ones(3), "sizes": (1, 2)}, 7.0)], batch_size=2)
    [(inputs, targets)] = feed.next()
    assert inputs["tokens"].shape == (2, 3) and targets.tolist() == [7.0, 7.0]
