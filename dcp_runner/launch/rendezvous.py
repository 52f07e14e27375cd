"""How ranks meet: one key-value store for a run, and the stream of messages from rank 0 to the others in it.

The store is served outside the ranks wherever somebody outlives them (our own launcher, torchrun's agent); under srun
rank 0 serves it. It carries the configuration first, and the process group's rendezvous afterwards.
"""

from __future__ import annotations

import json
import socket
import time
from contextlib import suppress
from datetime import timedelta
from functools import cache
from math import inf
from queue import Empty, Queue
from threading import Thread
from typing import TYPE_CHECKING, Any

from dcp_runner.common.launch_env import World
from dcp_runner.common.signals import NOTICES, StopFlag

if TYPE_CHECKING:
    from torch.distributed import Store, TCPStore

_CONNECT = timedelta(minutes=5)
_GREETING = timedelta(seconds=10)
_TOKEN = "dcp_runner/token"
_GLANCE_S = 0.05
_FAREWELL_S = 10.0
_TOGETHER_S = 120.0


@cache
def join(world: World) -> TCPStore:
    """This process's connection to the store of `world`; the rank that hosts it also serves it.

    Raises:
        OSError: there is no store within five minutes, or no port is free for it.
    """
    if world.hosts_store:
        return _served(world)
    return _found(world) if world.token else _connected(world, world.ports[0], _CONNECT)


def _connected(world: World, port: int, limit: timedelta) -> TCPStore:
    from torch.distributed import TCPStore

    store = TCPStore(
        world.addr,
        port,
        is_master=world.hosts_store,
        wait_for_workers=False,
        timeout=limit,
        multi_tenant=world.hosts_store,
    )
    store.set_timeout(_CONNECT)
    return store


def _served(world: World) -> TCPStore:
    """At the first free port."""
    from torch.distributed import DistNetworkError

    for port in world.ports:
        with suppress(DistNetworkError):  # taken
            store = _connected(world, port, _CONNECT)
            store.set(_TOKEN, world.token)
            return store
    raise OSError(f"rendezvous: none of the ports {', '.join(map(str, world.ports))} is free on {world.addr}")


def _found(world: World) -> TCPStore:
    """Where the token is: another job may have a store at a port that its host has not got."""
    deadline = time.monotonic() + _CONNECT.total_seconds()
    while time.monotonic() < deadline:
        for port in world.ports:
            answer: Queue[TCPStore | None] = Queue()
            Thread(target=_look, args=(world, port, answer), daemon=True).start()
            with suppress(Empty):  # who listens there says nothing, for which a TCPStore waits without a limit
                store = answer.get(timeout=2 * _GREETING.total_seconds())
                if store is not None:
                    return store
        time.sleep(_GLANCE_S)
    raise OSError(f"rendezvous: rank 0 did not serve the store of {world} within {_CONNECT}")


def _look(world: World, port: int, answer: Queue[TCPStore | None]) -> None:
    """Whether the store of this world is at that port."""
    from torch.distributed import DistError

    with suppress(OSError, DistError):
        socket.create_connection((world.addr, port), timeout=1).close()
        store = _connected(world, port, _GREETING)
        if wait(store, [_TOKEN], 1.0) and store.get(_TOKEN).decode() == world.token:
            return answer.put(store)
    answer.put(None)


def wait(store: Store, keys: list[str], limit_s: float, stop: StopFlag | None = None) -> bool:
    """Wait until all keys are set; false: not within the limit. Looks again and again, because a blocking wait would
    keep Python from running a signal handler.

    Raises:
        SystemExit: `stop` was told meanwhile to end. A notice can wait for the first step: whoever has passed here
            already would wait in vain for one that leaves.
    """
    deadline = time.monotonic() + limit_s
    while not store.check(keys):
        if stop is not None and stop.signal is not None and stop.signal not in NOTICES:
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

    def part(self, *, together: bool = False) -> None:
        """The last call of a job (all ranks). Rank 0 stays until the others have got everything from it; `together`,
        the others stay until rank 0 is here too.
        """
        from torch.distributed import DistError

        self._partings += 1
        keys = [f"dcp_runner/parted/{self._partings}/{rank}" for rank in range(self._world.size)]
        with suppress(DistError):  # a peer that has died is waited for by nobody
            self._store.set(keys[self._world.rank], "")
            if self._world.rank == 0:
                wait(self._store, keys, _FAREWELL_S)
            elif together:
                wait(self._store, keys[:1], _TOGETHER_S)


@cache
def stream(world: World) -> Stream:
    """The one stream of this process."""
    return Stream(world)
