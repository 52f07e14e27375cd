"""How the ranks of a save or load communicate: phases with one verdict, and payloads over a gloo group of their own."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from dcp_runner.checkpoint.errors import CheckpointError
from dcp_runner.checkpoint.sync.claims import disagreements
from dcp_runner.checkpoint.sync.phases import Json, PhaseRunner, StoreTimeout, with_deadline
from dcp_runner.common.torch_private import default_store

T = TypeVar("T")
_connections = itertools.count()


class Comm:
    """Phases and payloads among `world_size` ranks that share a store.

    `timeout_s` bounds the silence of a rank, counted from another one's arrival (a payload gives up after half of
    it, to leave time for the outcomes); `store_host` names who hosts the store, for the message when it is silent.
    All ranks must make the same calls in the same order.
    """

    def __init__(
        self,
        store: dist.Store,
        rank: int,
        world_size: int,
        *,
        timeout_s: float = 600.0,
        store_host: str = "the launcher",
    ) -> None:
        self.rank = rank
        self.world_size = world_size
        self._phases = PhaseRunner(store, rank, world_size, timeout_s, store_host)
        self._store = store
        self._timeout_s = timeout_s
        self._generation = 0
        self._group: Any = None

    def agree(self, phase: str, work: Callable[[], T]) -> T:
        """Do the work on this rank, and return its value if every rank's work succeeded.

        Raises the same CheckpointError on all living ranks if any failed or stayed silent until the deadline.
        """
        return self._run(phase, work)

    def exchange(self, phase: str, value: Json) -> list[Json]:
        """The JSON values of all ranks, by rank. Raises CheckpointError."""
        return self._run(phase, lambda: self._all_gather(value), payload=True)

    def on_rank_0(self, phase: str, work: Callable[[], Json]) -> Json:
        """The JSON value of work that only rank 0 does. Raises CheckpointError."""
        value = self.agree(phase, lambda: work() if self.rank == 0 else None)
        return self._run(phase, lambda: self._broadcast(value), payload=True)

    def require_equal(self, phase: str, claims: Mapping[str, str]) -> None:
        """Make sure that all ranks claim the same, by subject.

        Raises CheckpointError on all ranks, from a ValueError on each rank outside the majority that says who claims
        what.
        """
        found = disagreements(self.exchange(phase, dict(claims)))

        def raise_if_outlier() -> None:
            if own := [str(subject) for subject in found if self.rank in subject.outliers]:
                raise ValueError("; ".join(own))

        self.agree(phase, raise_if_outlier)

    def acquire_commit_permit(self) -> None:
        """See PhaseRunner.acquire_commit_permit."""
        self._phases.acquire_commit_permit()

    def send(self, data: torch.Tensor, source: int) -> None:
        """Overwrite the CPU tensor on all ranks with that of rank `source`; to be called by all, inside a phase's
        work.
        """
        options = dist.BroadcastOptions()
        options.rootRank, options.rootTensor = source, 0
        self._gloo().broadcast([data], options).wait()

    def _run(self, phase: str, work: Callable[[], T], payload: bool = False) -> T:
        try:
            return self._phases.run(phase, work, payload)
        except CheckpointError:  # on all ranks alike: what connected them may be broken
            self._group, self._generation = None, self._generation + 1
            raise

    def _gloo(self) -> Any:
        if self._group is None:
            store = dist.PrefixStore(f"gloo/{self._generation}", self._store)
            patience_s = self._timeout_s / 2
            timeout = timedelta(seconds=patience_s)
            try:
                self._group = with_deadline(
                    patience_s, lambda: dist.ProcessGroupGloo(store, self.rank, self.world_size, timeout)
                )
            except StoreTimeout:
                with_deadline(0, lambda: self._store.check(["alive"]))  # the store is silent, or else a rank
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
        return Comm(dist.HashStore(), 0, 1, timeout_s=timeout_s)
    if dist.get_world_size() != world_size:
        raise ValueError(f"the topology has {world_size} ranks, the process group {dist.get_world_size()}")
    prefixed = dist.PrefixStore(f"dcp_runner/{next(_connections)}", default_store().clone())
    outside = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    host = "the launcher" if outside else "rank 0"
    return Comm(prefixed, dist.get_rank(), world_size, timeout_s=timeout_s, store_host=host)


def _bytes(value: Json) -> torch.Tensor:
    return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
