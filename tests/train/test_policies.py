"""When to save, and what is known of the best checkpoints."""

from __future__ import annotations

import pytest

from dcp_runner.checkpoint.config import CheckpointConfig
from dcp_runner.train.policies import SavePolicy


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(("every", "due"), [(1, [1, 2, 3, 4, 5, 6]), (3, [3, 6]), (7, []), (None, [])])
def test_saves_by_steps(every: int | None, due: list[int]) -> None:
    policy = SavePolicy(every, None, Clock())
    assert [step for step in range(1, 7) if policy.due(step, policy.overdue())] == due


def test_saves_by_minutes_count_from_the_last_save() -> None:
    clock = Clock()
    policy = SavePolicy.of(CheckpointConfig(every_steps=None, every_minutes=0.5), clock)
    told = []
    for seconds in (0, 29.9, 0.1, 100):
        clock.now += seconds
        told.append(policy.overdue())
    assert told == [False, False, True, True]
    policy.saved()
    clock.now += 29
    assert not policy.overdue()
    clock.now += 1
    assert policy.overdue()


def test_rank_0_decides_about_the_time() -> None:
    policy = SavePolicy(10, 1.0, Clock())
    assert policy.due(3, overdue=True) and not policy.due(3, overdue=False) and policy.due(10, overdue=False)
