"""Which checkpoints the rules of retention keep."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcp_runner.checkpoint.config import Best, KeepConfig
from dcp_runner.checkpoint.retention import steps_to_delete

metric_values = st.one_of(st.none(), st.floats(), st.integers(0, 3).map(float))

histories = st.dictionaries(st.integers(0, 60), metric_values, max_size=12).map(
    lambda told: {step: {} if value is None else {"eval_loss": value} for step, value in told.items()}
)

keeps = st.builds(
    KeepConfig,
    last=st.none() | st.integers(0, 4),
    best=st.integers(0, 3),
    every=st.none() | st.integers(1, 9),
    mode=st.sampled_from(Best),
)


@given(histories, keeps, st.sets(st.integers(0, 60), max_size=3))
def test_what_any_rule_keeps_stays(
    history: dict[int, Mapping[str, float]], keep: KeepConfig, protected: set[int]
) -> None:
    gone = steps_to_delete(history, keep, protected)
    stay = sorted(set(history) - set(gone))
    assert gone == sorted(set(gone)) and set(gone) <= set(history)
    assert not set(gone) & protected
    if history:
        assert max(history) in stay
    if keep.last is None:
        return
    assert stay[-keep.last :] == sorted(history)[-keep.last :] or keep.last == 0
    assert not keep.every or not any(step % keep.every == 0 for step in gone)
    values = {
        step: told["eval_loss"] for step, told in history.items() if not math.isnan(told.get("eval_loss", math.nan))
    }
    better = (lambda a, b: a <= b) if keep.mode is Best.min else (lambda a, b: a >= b)
    best = [step for step in stay if step in values]
    for step in set(gone) & set(values):
        ahead = [other for other in best if better(values[other], values[step])]
        assert len(ahead) >= keep.best, "a deleted one has enough better ones that stay"
    rules = keep.best + max(keep.last, 1) + len(protected) + (len(history) if keep.every else 0)
    assert len(stay) <= rules, "and nothing stays without a rule"


@pytest.mark.parametrize(
    ("losses", "keep", "gone"),
    [
        ({}, KeepConfig(last=1), []),
        ({1: 5.0}, KeepConfig(last=0, best=0), []),
        ({1: 5.0, 2: 4.0, 3: 3.0}, KeepConfig(last=None, best=0), []),
        ({1: 1.0, 2: 4.0, 3: 3.0, 4: 2.0}, KeepConfig(last=2, best=0), [1, 2]),
        ({1: 1.0, 2: 4.0, 3: 3.0, 4: 2.0}, KeepConfig(last=2), [2]),
        ({1: 1.0, 2: 4.0, 3: 3.0, 4: 2.0}, KeepConfig(last=1, mode=Best.max), [1, 3]),
        ({1: 1.0, 2: 1.0, 3: 3.0}, KeepConfig(last=1), [1]),
        ({1: 1.0, 2: 1.0, 3: 0.0}, KeepConfig(last=1, mode=Best.max), [1]),
        ({1: math.nan, 2: 7.0, 3: math.nan}, KeepConfig(last=1), [1]),
        ({1: math.inf, 2: math.nan, 3: math.nan}, KeepConfig(last=1), [2]),
        ({5: 1.0, 10: 9.0, 11: 9.0, 20: 9.0, 21: 9.0}, KeepConfig(last=1, every=10), [11]),
        ({1: 3.0, 2: 2.0, 3: 1.0, 4: 5.0}, KeepConfig(last=1, best=2), [1]),
    ],
)
def test_cases_of_retention(losses: dict[int, float], keep: KeepConfig, gone: list[int]) -> None:
    assert steps_to_delete({step: {"eval_loss": loss} for step, loss in losses.items()}, keep) == gone


def test_another_metric_decides() -> None:
    history = {1: {"f1": 0.9}, 2: {"f1": 0.5}, 3: {"eval_loss": 0.0}, 4: {}}
    assert steps_to_delete(history, KeepConfig(last=1, metric="f1", mode=Best.max)) == [2, 3]
