"""How every rank ended, by its record, by what elastic saw, or because nothing else is left."""

from __future__ import annotations

import signal
import time

import pytest

from dcp_runner.launch.outcomes import ExitRecord, RankExit
from dcp_runner.launch.rank_exits import rank_exits

KILL, ABRT = -signal.SIGKILL, -signal.SIGABRT


def exits(
    size: int, failed: dict[int, int], codes: dict[int, int], *, ago_s: float = 1.0, killed_now: bool = False
) -> list[RankExit]:
    """`codes` are those of the records, in the order of the exits, the first of them `ago_s` seconds ago."""
    first = time.time() - ago_s
    records = {rank: ExitRecord(code, first + number / 1000) for number, (rank, code) in enumerate(codes.items())}
    return rank_exits(size, failed, records, killed_now=killed_now, grace_s=30)


def killed(rank: int, by_launcher: bool) -> RankExit:
    return RankExit(rank, KILL, by_launcher=by_launcher, seen=False)


def test_records_count_in_the_order_of_the_exits() -> None:
    assert exits(3, {}, {2: 0, 0: 1, 1: 0}) == [RankExit(2, 0), RankExit(0, 1), RankExit(1, 0)]


def test_a_record_counts_more_than_what_elastic_saw() -> None:
    assert exits(2, {0: -signal.SIGTERM, 1: 1}, {1: 1, 0: 143}) == [RankExit(1, 1), RankExit(0, 143)]


def test_a_seen_death_comes_first_and_the_unseen_ones_after_it_are_of_the_launcher() -> None:
    assert exits(3, {1: ABRT}, {0: 1}) == [RankExit(1, ABRT), killed(2, True), RankExit(0, 1)]


@pytest.mark.parametrize(
    ("ago_s", "killed_now", "by_launcher"), [(1, False, False), (31, False, True), (1, True, True)]
)
def test_an_unseen_death(ago_s: float, killed_now: bool, by_launcher: bool) -> None:
    """The failure of rank 0 is a consequence, unless the launcher had a reason to kill rank 1."""
    assert exits(2, {0: 1}, {0: 1}, ago_s=ago_s, killed_now=killed_now) == [killed(1, by_launcher), RankExit(0, 1)]


def test_a_rank_that_ended_well_long_ago_is_no_reason_to_kill() -> None:
    assert exits(2, {}, {0: 0}, ago_s=100) == [killed(1, False), RankExit(0, 0)]
