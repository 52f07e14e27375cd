"""When to save, and what is known of the best checkpoints."""

from __future__ import annotations

import pytest

from dcp_runner.checkpoint.config import CheckpointConfig, KeepConfig
from dcp_runner.train.policies import SavePolicy, best_caveat, effective_keep


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


def test_what_is_logged_about_the_best_at_the_start() -> None:
    keep = KeepConfig(last=1)
    assert effective_keep(keep, True).best == 1 and effective_keep(keep, False).best == 0
    assert effective_keep(KeepConfig(last=1, metric="loss"), False).best == 1
    assert "keep.best has no effect" in best_caveat(CheckpointConfig(keep=keep), None)
    assert best_caveat(CheckpointConfig(keep=keep, every_steps=20), 10) == ""
    assert best_caveat(CheckpointConfig(keep=keep, every_steps=None), 10) == ""
    assert "evaluates first" in best_caveat(CheckpointConfig(keep=keep, every_steps=15), 10)
    assert "evaluates first" in best_caveat(CheckpointConfig(keep=keep, every_minutes=1.0), 10)
    assert "never one of the best" in best_caveat(CheckpointConfig(keep=keep, every_steps=15, eval_on_save=False), 10)
    for other in (KeepConfig(), KeepConfig(last=1, best=0), KeepConfig(last=1, metric="loss")):
        assert best_caveat(CheckpointConfig(keep=other, every_steps=15), None) == ""
