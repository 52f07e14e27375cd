"""Phases: work that every rank does, followed by one verdict in the rendezvous store that is the same for all ranks.

    1. (all ranks) do the work; an exception becomes this rank's outcome
    2. (all ranks) set the own outcome in the store and count it
    3. (the last to arrive, or whoever reaches the deadline first) write the verdict; the first verdict written wins
    4. (all ranks) read the verdict: return the work's value, or raise the same CheckpointError

A rank that is dead, stopped or stuck sets no outcome, and so the verdict names it. Gloo cannot do this: its timeout
names no rank and breaks the group. Store calls run in a helper thread, because the client of a stopped store hangs past
its own timeout.

A rank has one key, which it sets anew in each phase. The keys of a phase itself are removed once all ranks have arrived
at the next one, and so have finished it: a store does not grow with the number of saves.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

from dcp_runner.checkpoint.errors import CheckpointError, RankFailure

T = TypeVar("T")
Json = Any

GRACE_S = 2.0
"""Seconds beyond the timeout after which the store itself counts as silent."""
_FAILED = 2**32
"""A failure in the count of a phase, of which the lower half counts the ranks that have arrived."""


class StoreTimeout(Exception):
    """The store fails or does not answer, so outcomes can be neither sent nor received."""


class PhaseRunner:
    """Runs phases among `world_size` ranks that share a store. All ranks must run the same phases in the same order.

    `timeout_s` bounds the silence of a rank, counted from another one's arrival; `store_host` names who hosts the
    store, for the message when it is silent.
    """

    def __init__(self, store: dist.Store, rank: int, world_size: int, timeout_s: float, store_host: str) -> None:
        self.rank = rank
        self.world_size = world_size
        self.host = socket.gethostname()
        self.timeout_s = timeout_s
        self._store = store
        self._store_host = store_host
        self._number = 0
        self._prefix = self._previous_prefix = ""
        """Of the keys of this phase, and of the one before."""
        self._permit = ""
        """Key of a permit that this rank was given in the phase before."""

    def run(self, phase: str, work: Callable[[], T], payload: bool = False) -> T:
        """Do the work on this rank, and return its value if every rank's work succeeded.

        `payload`: the work itself waits for other ranks, so its time counts towards the timeout. Raises the same
        CheckpointError on all living ranks if any failed or stayed silent until the deadline.
        """
        self._number += 1
        start = time.monotonic()
        self._previous_prefix, self._prefix = self._prefix, f"{self._number}/{phase}"
        try:
            try:
                value = work()
            except StoreTimeout:
                raise
            except BaseException as error:
                failure = RankFailure(self.rank, self.host, *_described(error), _is_consequence(error))
                self._exchange_outcomes(phase, self._patience(start, payload), failure, error)
                raise
            self._exchange_outcomes(phase, self._patience(start, payload))
        except StoreTimeout as silence:
            why = f"the rendezvous store, hosted by {self._store_host}, {silence}"
            raise CheckpointError(
                phase, [RankFailure(self.rank, self.host, "StoreTimeout", why)], [self.rank]
            ) from silence.__cause__
        return value

    def acquire_commit_permit(self) -> None:
        """To be called inside a phase's work, before what cannot be undone: no other rank has given up waiting yet, and
        none will from here on without knowing that it is too late.

        Raises PermissionError where one has.
        """
        self._permit = f"{self._prefix}/permit"
        if with_deadline(0, lambda: self._store.compare_set(self._permit, "", "granted")) != b"granted":
            raise PermissionError("the other ranks have given up waiting for this one")

    def _patience(self, start: float, payload: bool) -> float:
        """Seconds to wait for the others' outcomes.

        With a payload they count from its start, because it can be done at once on this rank and stuck on another one.
        """
        spent = time.monotonic() - start if payload else 0.0
        return max(self.timeout_s - spent, GRACE_S)

    def _exchange_outcomes(
        self,
        phase: str,
        patience_s: float,
        failure: RankFailure | None = None,
        cause: BaseException | None = None,
    ) -> None:
        try:
            verdict = with_deadline(patience_s, lambda: self._verdict(self._prefix, patience_s, failure))
        except RuntimeError as error:
            raise StoreTimeout(f"failed: {error}") from error
        if verdict["failures"]:
            failures = [RankFailure(**entry) for entry in verdict["failures"]]
            raise CheckpointError(phase, failures, verdict["alive"]) from cause

    def _verdict(self, prefix: str, patience_s: float, failure: RankFailure | None) -> Json:
        if self._permit and not self._permit.startswith(f"{prefix}/"):
            self._store.delete_key(self._permit)
            self._permit = ""
        self._store.set(f"rank/{self.rank}", json.dumps([prefix, failure.__dict__ if failure else None]))
        count = self._store.add(f"{prefix}/count", 1 if failure is None else 1 + _FAILED)
        if count % _FAILED == self.world_size:
            self._forget(self._previous_prefix)
            verdict = self._attribute(prefix) if count >= _FAILED else {"failures": [], "alive": []}
            return self._publish_verdict(prefix, verdict)
        try:
            self._store.wait([f"{prefix}/verdict"], timedelta(seconds=patience_s))
        except dist.DistStoreError:
            self._store.compare_set(f"{prefix}/permit", "", "denied")
            return self._publish_verdict(prefix, self._attribute(prefix))
        return json.loads(self._store.get(f"{prefix}/verdict"))

    def _forget(self, prefix: str) -> None:
        """Remove the keys of a phase that all ranks have finished."""
        for key in ("count", "verdict") if prefix else ():
            self._store.delete_key(f"{prefix}/{key}")

    def _publish_verdict(self, prefix: str, verdict: Json) -> Json:
        """The verdict that was written first, this rank's or another one's."""
        return json.loads(self._store.compare_set(f"{prefix}/verdict", "", json.dumps(verdict)))

    def _attribute(self, prefix: str) -> Json:
        """Who is to blame: ranks that failed by themselves and silent ones; only if there is none, those that
        merely suffered.
        """
        known = [rank for rank in range(self.world_size) if self._store.check([f"rank/{rank}"])]
        outcomes = {rank: json.loads(self._store.get(f"rank/{rank}")) for rank in known}
        alive = [rank for rank, (where, _) in outcomes.items() if where == prefix]
        failed = [failure for where, failure in outcomes.values() if where == prefix and failure]
        silent = [self._silence(rank) for rank in range(self.world_size) if rank not in alive]
        culprits = [outcome for outcome in failed if not outcome["consequence"]] + silent
        return {"failures": culprits or failed, "alive": alive}

    def _silence(self, rank: int) -> Json:
        message = (
            f"no answer within {self.timeout_s:g} s: it is dead, stopped or stuck (checkpoint.timeout_s sets the limit)"
        )
        return RankFailure(rank, "", "Silent", message).__dict__


def with_deadline(patience_s: float, call: Callable[[], T]) -> T:
    """Run store calls in a helper thread with a deadline. Raises StoreTimeout where it passes."""
    result: list[T] = []
    broken: list[RuntimeError] = []

    def run() -> None:
        try:
            result.append(call())
        except RuntimeError as error:
            broken.append(error)

    helper = threading.Thread(target=run, daemon=True, name="checkpoint-store")
    helper.start()
    helper.join(patience_s + GRACE_S)
    if result:
        return result[0]
    raise broken[0] if broken else StoreTimeout("is silent")


def _described(error: BaseException) -> tuple[str, str]:
    return type(error).__name__, " ".join([str(error) or repr(error), *getattr(error, "__notes__", ())])


def _is_consequence(error: BaseException) -> bool:
    """Torch raises plain RuntimeErrors (or DistBackendError) where a connection broke: another rank is the cause."""
    return isinstance(error, RuntimeError) and not isinstance(error, CheckpointError) and _from_gloo(error)


def _from_gloo(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or "gloo" in str(error)
