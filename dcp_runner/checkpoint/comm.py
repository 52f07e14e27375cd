"""How the ranks of a save or load talk: payloads over an own gloo group, outcomes as a verdict in the rendezvous
store.

A phase is work that every rank does, followed by one exchange of outcomes:

    1. (all ranks) do the work; an exception becomes this rank's outcome
    2. (all ranks) set the own outcome in the store and count it
    3. (the last to arrive, or whoever reaches the deadline first) write the verdict; the first verdict written wins
    4. (all ranks) read the verdict: return the work's value, or raise the same CheckpointError

A rank that is dead, stopped or stuck sets no outcome, and so the verdict names it. Gloo cannot do this: its time-
out names nobody and breaks the group. Store calls run in a helper thread, because the client of a stopped store
hangs past its own time-out.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import BroadcastOptions, HashStore, PrefixStore, Store

from dcp_runner.checkpoint.errors import CheckpointError, Failure

T = TypeVar("T")
Json = Any

GRACE_S = 2.0
"""Seconds beyond the time-out after which the store itself counts as silent."""

_connections = itertools.count()


class _StoreSilent(Exception):
    """The store fails or does not answer, so no outcome can be told or heard."""


class Comm:
    """Phases and payloads among `world_size` ranks that share a store.

    `timeout_s` bounds the silence of a rank, counted from another one's arrival (a payload gives up after half of
    it, to leave time for the outcomes); `store_host` names who hosts the store, for the message when it is silent.
    All ranks must make the same calls in the same order.
    """

    def __init__(
        self,
        store: Store,
        rank: int,
        world_size: int,
        *,
        timeout_s: float = 600.0,
        store_host: str = "the launcher",
    ) -> None:
        self.rank = rank
        self.world_size = world_size
        self.host = socket.gethostname()
        self.timeout_s = timeout_s
        self._store = store
        self._store_host = store_host
        self._number = 0
        self._generation = 0
        self._group: Any = None

    def agree(self, phase: str, work: Callable[[], T]) -> T:
        """Do the work on this rank, and return its value if every rank's work succeeded.

        Raises the same CheckpointError on all living ranks if any failed or stayed silent until the deadline.
        """
        return self._agree(phase, work)

    def _agree(self, phase: str, work: Callable[[], T], payload: bool = False) -> T:
        self._number += 1
        start = time.monotonic()
        place = f"{self._number}/{phase}"
        try:
            try:
                value = work()
            except _StoreSilent:
                raise
            except BaseException as error:
                failure = Failure(self.rank, self.host, *_told(error), _is_consequence(error))
                self._conclude(phase, place, self._patience(start, payload), failure, error)
                raise
            self._conclude(phase, place, self._patience(start, payload))
        except _StoreSilent as silence:
            why = f"the rendezvous store, hosted by {self._store_host}, {silence}"
            raise CheckpointError(
                phase, [Failure(self.rank, self.host, "StoreSilent", why)], [self.rank]
            ) from silence.__cause__
        return value

    def _patience(self, start: float, payload: bool) -> float:
        """Seconds to wait for the others' outcomes.

        With a payload they count from its start, because it can be done at once on this rank and stuck on another one.
        """
        spent = time.monotonic() - start if payload else 0.0
        return max(self.timeout_s - spent, GRACE_S)

    def exchange(self, phase: str, value: Json) -> list[Json]:
        """The JSON values of all ranks, by rank. Raises CheckpointError."""
        return self._agree(phase, lambda: self._all_gather(value), payload=True)

    def from_first(self, phase: str, work: Callable[[], Json]) -> Json:
        """The JSON value of work that only rank 0 does. Raises CheckpointError."""
        value = self.agree(phase, lambda: work() if self.rank == 0 else None)
        return self._agree(phase, lambda: self._broadcast(value), payload=True)

    # -- outcomes ------------------------------------------------------------------------------------------------------

    def _conclude(
        self,
        phase: str,
        place: str,
        patience_s: float,
        failure: Failure | None = None,
        cause: BaseException | None = None,
    ) -> None:
        try:
            verdict = self._in_time(patience_s, lambda: self._verdict(place, patience_s, failure))
        except RuntimeError as error:
            raise _StoreSilent(f"failed: {error}") from error
        if verdict["failures"]:
            self._group, self._generation = None, self._generation + 1  # gloo may be broken; on all ranks alike
            failures = [Failure(**entry) for entry in verdict["failures"]]
            raise CheckpointError(phase, failures, verdict["alive"]) from cause

    def _verdict(self, place: str, patience_s: float, failure: Failure | None) -> Json:
        self._store.set(f"{place}/rank/{self.rank}", json.dumps(failure.__dict__ if failure else None))
        failed = self._store.add(f"{place}/failed", int(failure is not None))
        if self._store.add(f"{place}/arrived", 1) == self.world_size:
            failed = self._store.add(f"{place}/failed", 0)
            return self._rule(place, self._judge(place) if failed else {"failures": [], "alive": []})
        try:
            self._store.wait([f"{place}/verdict"], timedelta(seconds=patience_s))
        except dist.DistStoreError:
            return self._rule(place, self._judge(place))
        return json.loads(self._store.get(f"{place}/verdict"))

    def _rule(self, place: str, verdict: Json) -> Json:
        """The verdict that was written first, ours or another rank's."""
        return json.loads(self._store.compare_set(f"{place}/verdict", "", json.dumps(verdict)))

    def _judge(self, place: str) -> Json:
        """Who is to blame: ranks that failed by themselves and silent ones; only if there is none, those that
        merely suffered.
        """
        alive = [rank for rank in range(self.world_size) if self._store.check([f"{place}/rank/{rank}"])]
        outcomes = [json.loads(self._store.get(f"{place}/rank/{rank}")) for rank in alive]
        failed = [outcome for outcome in outcomes if outcome]
        silent = [self._silence(rank) for rank in range(self.world_size) if rank not in alive]
        culprits = [outcome for outcome in failed if not outcome["consequence"]] + silent
        return {"failures": culprits or failed, "alive": alive}

    def _silence(self, rank: int) -> Json:
        message = (
            f"no answer within {self.timeout_s:g} s: it is dead, stopped or stuck (checkpoint.timeout_s sets the limit)"
        )
        return Failure(rank, "", "Silent", message).__dict__

    def _in_time(self, patience_s: float, call: Callable[[], T]) -> T:
        """Run store calls in a helper thread with a deadline."""
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
        raise broken[0] if broken else _StoreSilent("is silent")

    # -- payloads ------------------------------------------------------------------------------------------------------

    def _gloo(self) -> Any:
        if self._group is None:
            store = PrefixStore(f"gloo/{self._generation}", self._store)
            patience_s = self.timeout_s / 2
            timeout = timedelta(seconds=patience_s)
            try:
                self._group = self._in_time(
                    patience_s, lambda: dist.ProcessGroupGloo(store, self.rank, self.world_size, timeout)
                )
            except _StoreSilent:
                self._in_time(0, lambda: self._store.check(["alive"]))  # it is the store that is silent, or else a rank
                raise RuntimeError(f"gloo has not connected all ranks within {patience_s:g} s") from None
        return self._group

    def _all_gather(self, value: Json) -> list[Json]:
        if self.world_size == 1:
            return [value]
        data = _bytes(value)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world_size)]
        self._gloo().allgather([sizes], [torch.tensor([len(data)])]).wait()
        longest = int(max(sizes))
        padded = torch.zeros(longest, dtype=torch.uint8)
        padded[: len(data)] = data
        gathered = [torch.empty(longest, dtype=torch.uint8) for _ in range(self.world_size)]
        self._gloo().allgather([gathered], [padded]).wait()
        return [json.loads(bytes(part[: int(size)].numpy())) for part, size in zip(gathered, sizes, strict=True)]

    def _broadcast(self, value: Json) -> Json:
        if self.world_size == 1:
            return value
        data = _bytes(value) if self.rank == 0 else torch.empty(0, dtype=torch.uint8)
        size = torch.tensor([len(data)])
        self.send(size, 0)
        if self.rank != 0:
            data = torch.empty(int(size), dtype=torch.uint8)
        self.send(data, 0)
        return json.loads(bytes(data.numpy()))

    def send(self, data: torch.Tensor, source: int) -> None:
        """Overwrite the CPU tensor on all ranks with that of rank `source`; to be called by all, inside a phase's
        work.
        """
        options = BroadcastOptions()
        options.rootRank, options.rootTensor = source, 0
        self._gloo().broadcast([data], options).wait()


def connect(world_size: int, timeout_s: float) -> Comm:
    """A Comm among the ranks of the default process group, over its store; or of this process alone.

    Raises ValueError where the topology's world size is not that of the process group.
    """
    if not dist.is_initialized():
        if world_size != 1:
            raise ValueError(
                f"the topology has {world_size} ranks, but there is no process group; "
                "call torch.distributed.init_process_group() first"
            )
        return Comm(HashStore(), 0, 1, timeout_s=timeout_s)
    if dist.get_world_size() != world_size:
        raise ValueError(f"the topology has {world_size} ranks, the process group {dist.get_world_size()}")
    default: Any = dist.distributed_c10d._get_default_store()
    prefixed = PrefixStore(f"dcp_runner/{next(_connections)}", default.clone())
    outside = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    host = "the launcher" if outside else "rank 0"
    return Comm(prefixed, dist.get_rank(), world_size, timeout_s=timeout_s, store_host=host)


def _bytes(value: Json) -> torch.Tensor:
    return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)


def _told(error: BaseException) -> tuple[str, str]:
    return type(error).__name__, str(error) or repr(error)


def _is_consequence(error: BaseException) -> bool:
    """Torch raises plain RuntimeErrors (or DistBackendError) where a connection broke: another rank is the cause."""
    return isinstance(error, RuntimeError) and not isinstance(error, CheckpointError) and _from_gloo(error)


def _from_gloo(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or "gloo" in str(error)
