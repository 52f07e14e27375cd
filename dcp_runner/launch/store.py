"""How ranks meet: one key-value store for a run, and the stream of messages from rank 0 to the others in it.

The store is served outside the ranks wherever somebody outlives them (our own launcher, torchrun's agent); under srun
rank 0 serves it. It carries the configuration first, and the process group's rendezvous afterwards.
"""

from __future__ import annotations

import json
import time
from datetime import timedelta
from functools import cache
from math import inf
from typing import TYPE_CHECKING, Any

from dcp_runner.launch.world import World
from dcp_runner.train.signals import StopFlag

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store, TCPStore

_CONNECT = timedelta(minutes=5)
_GLANCE_S = 0.05
_FAREWELL_S = 10.0


@cache
def join(world: World) -> TCPStore:
    """This process's connection to the store of `world`; the rank that hosts it also serves it."""
    from torch._C._distributed_c10d import TCPStore

    return TCPStore(
        world.addr,
        world.port,
        is_master=world.hosts_store,
        wait_for_workers=False,
        timeout=_CONNECT,
        multi_tenant=world.hosts_store,
    )


def wait(store: Store, keys: list[str], limit_s: float, stop: StopFlag | None = None) -> bool:
    """Wait until all keys are set; false: not within the limit. Looks again and again, because a blocking wait would
    keep Python from running a signal handler.

    Raises:
        SystemExit: `stop` was set meanwhile.
    """
    deadline = time.monotonic() + limit_s
    while not store.check(keys):
        if stop is not None and stop.signal is not None:
            raise SystemExit(128 + stop.signal)
        if time.monotonic() > deadline:
            return False
        time.sleep(_GLANCE_S)
    return True


class Stream:
    """Messages in one order: rank 0 sends, every other rank receives each of them."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._store = join(world)
        self._messages = 0
        self._partings = 0

    def send(self, **message: Any) -> None:
        """Tell all other ranks (rank 0)."""
        self._messages += 1
        self._store.set(f"dcp_runner/message/{self._messages}", json.dumps(message))

    def receive(self) -> dict[str, Any]:
        """The next message, however long it takes (all other ranks).

        Raises:
            torch.distributed.DistNetworkError: the store is gone, so rank 0 or its launcher has died.
        """
        self._messages += 1
        key = f"dcp_runner/message/{self._messages}"
        wait(self._store, [key], inf)
        message: dict[str, Any] = json.loads(self._store.get(key))
        return message

    def part(self) -> None:
        """The last call of a job (all ranks). Rank 0 stays until the others have got everything from it."""
        self._partings += 1
        if self._world.rank:
            self._store.set(f"dcp_runner/parted/{self._partings}/{self._world.rank}", "")
            return
        others = [f"dcp_runner/parted/{self._partings}/{rank}" for rank in range(1, self._world.size)]
        if others:
            wait(self._store, others, _FAREWELL_S)


@cache
def stream(world: World) -> Stream:
    """The one stream of this process."""
    return Stream(world)
