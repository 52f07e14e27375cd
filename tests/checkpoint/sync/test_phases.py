"""A phase ends with one verdict, the same on all ranks, whoever fails, stays silent or has given up waiting.

Ranks are threads here, which share a store in memory; tests/distributed has real ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch.distributed as dist

from dcp_runner.checkpoint.errors import CheckpointError
from dcp_runner.checkpoint.sync import phases
from dcp_runner.checkpoint.sync.phases import PhaseRunner, StoreTimeout, with_deadline


def among(size: int, work: Callable[[PhaseRunner], Any], *, absent: int = -1, timeout_s: float = 30.0) -> list[Any]:
    """What the work gives or raises on each rank."""
    store = dist.HashStore()

    def on_rank(rank: int) -> Any:
        try:
            return None if rank == absent else work(PhaseRunner(store, rank, size, timeout_s, "the test"))
        except CheckpointError as error:
            return error

    with ThreadPoolExecutor(size) as threads:
        return list(threads.map(on_rank, range(size)))


def test_where_all_succeed_each_has_its_value() -> None:
    assert among(3, lambda runner: [runner.run(name, lambda: runner.rank) for name in "aba"]) == [
        [n] * 3 for n in range(3)
    ]


def test_where_one_fails_all_raise_the_same() -> None:
    def work(runner: PhaseRunner) -> None:
        def fail() -> None:
            if runner.rank == 1:
                error = KeyError("weight")
                error.add_note("in the optimizer")
                raise error

        runner.run("plan", fail)

    errors = among(3, work)
    assert len({str(error) for error in errors}) == 1 and "KeyError: 'weight' in the optimizer" in str(errors[0])
    assert [(error.phase, error.alive, error.failures[0].rank) for error in errors] == [("plan", (0, 1, 2), 1)] * 3


def test_a_consequence_is_named_only_where_there_is_no_cause() -> None:
    def work(causes: tuple[int, ...]) -> Callable[[PhaseRunner], None]:
        def fail(rank: int) -> None:
            raise ValueError("cause") if rank in causes else RuntimeError("gloo: connection closed")

        return lambda runner: runner.run("read", lambda: fail(runner.rank))

    assert [[f.rank for f in error.failures] for error in among(2, work((1,)))] == [[1], [1]]
    assert [sorted(f.rank for f in error.failures) for error in among(2, work(()))] == [[0, 1], [0, 1]]


def test_a_silent_rank_is_named_with_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phases, "GRACE_S", 0.1)
    *errors, _ = among(3, lambda runner: runner.run("write", lambda: None), absent=2, timeout_s=0.3)
    assert [(error.failures[0].rank, error.types, error.alive) for error in errors] == [(2, {"Silent"}, (0, 1))] * 2
    assert "no answer within 0.3 s" in str(errors[0])


def test_no_permit_where_the_others_have_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phases, "GRACE_S", 0.1)

    def work(runner: PhaseRunner) -> None:
        def commit() -> None:
            if runner.rank == 0:
                time.sleep(0.5)
                runner.acquire_commit_permit()

        runner.run("commit", commit)

    late, other = among(2, work, timeout_s=0.1)
    assert (late.types, other.types) == ({"Silent"}, {"Silent"}) and isinstance(late.__cause__, PermissionError)


def test_the_store_does_not_grow() -> None:
    store = dist.HashStore()
    runner = PhaseRunner(store, 0, 1, 30.0, "the test")

    def permitted() -> None:
        runner.acquire_commit_permit()

    def keys_after(count: int) -> int:
        for _ in range(count):
            runner.run("plan", lambda: None)
            runner.run("commit", permitted)
        return store.num_keys()

    assert keys_after(3) == keys_after(30)


class Broken(dist.Store):
    """A store whose host has died."""

    def set(self, key: str, value: str) -> None:
        raise RuntimeError("connection reset")


def test_a_store_that_fails_is_named_with_its_host() -> None:
    runner = PhaseRunner(Broken(), 1, 2, 30.0, "rank 0")
    with pytest.raises(
        CheckpointError, match="the rendezvous store, hosted by rank 0, failed: connection reset"
    ) as error:
        runner.run("plan", lambda: None)
    assert error.value.types == {"StoreTimeout"} and error.value.alive == (1,)


def test_a_call_that_hangs_ends_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phases, "GRACE_S", 0.0)
    assert with_deadline(1.0, lambda: 3) == 3
    with pytest.raises(StoreTimeout, match="is silent"):
        with_deadline(0.05, lambda: time.sleep(0.5))
