"""How the ranks of a save or load talk: outcomes as a verdict (see phases.py), payloads over an own gloo group."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import BroadcastOptions, HashStore, PrefixStore, Store

from dcp_runner.checkpoint.sync.phases import Json, PhaseRunner, StoreTimeout

_connections = itertools.count()


class Comm(PhaseRunner):
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
        super().__init__(store, rank, world_size, timeout_s, store_host)
        self._generation = 0
        self._group: Any = None

    def reset_group(self) -> None:
        self._group, self._generation = None, self._generation + 1

    def exchange(self, phase: str, value: Json) -> list[Json]:
        """The JSON values of all ranks, by rank. Raises CheckpointError."""
        return self._agree(phase, lambda: self._all_gather(value), payload=True)

    def on_rank_0(self, phase: str, work: Callable[[], Json]) -> Json:
        """The JSON value of work that only rank 0 does. Raises CheckpointError."""
        value = self.agree(phase, lambda: work() if self.rank == 0 else None)
        return self._agree(phase, lambda: self._broadcast(value), payload=True)

    def _gloo(self) -> Any:
        if self._group is None:
            store = PrefixStore(f"gloo/{self._generation}", self._store)
            patience_s = self.timeout_s / 2
            timeout = timedelta(seconds=patience_s)
            try:
                self._group = self._with_deadline(
                    patience_s, lambda: dist.ProcessGroupGloo(store, self.rank, self.world_size, timeout)
                )
            except StoreTimeout:
                self._with_deadline(
                    0, lambda: self._store.check(["alive"])
                )  # it is the store that is silent, or else a rank
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


def minority(labels: Sequence[tuple[int, str]]) -> tuple[int, ...]:
    """The ranks that are not with the majority; on a tie all of them."""
    counts: dict[str, int] = {}
    for _, label in labels:
        counts[label] = counts.get(label, 0) + 1
    most = max(counts.values())
    winners = [label for label, count in counts.items() if count == most]
    return tuple(rank for rank, label in labels if len(winners) > 1 or label != winners[0])
