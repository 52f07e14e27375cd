"""How ranks find each other: one key-value store for all, and in it a channel for messages from rank 0 to the others.

The store is served outside the ranks where a process outlives them (our own launcher, torchrun's agent); under srun
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
from dcp_runner.common.signals import PREEMPTION_SIGNALS, StopFlag

if TYPE_CHECKING:
    from torch.distributed import Store, TCPStore

_CONNECT = timedelta(minutes=5)
_GREETING = timedelta(seconds=10)
_TOKEN = "dcp_runner/token"
_POLL_S = 0.05
_OTHERS_S = 10.0
"""How long rank 0 waits for the others at the end of a job."""
_RANK_0_S = 120.0
"""How long the others wait for rank 0."""


@cache
def connect(world: World) -> TCPStore:
    """This process's connection to the store of `world`; the rank that hosts the store also serves it.

    Raises:
        OSError: there is no store within five minutes, or no port is free for it.
    """
    if world.hosts_store:
        return _served(world)
    return _found(world) if world.token else _client(world, world.ports[0], _CONNECT)


def _client(world: World, port: int, limit: timedelta) -> TCPStore:
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
    """On the first free port."""
    from torch.distributed import DistNetworkError

    for port in world.ports:
        with suppress(DistNetworkError):  # taken
            store = _client(world, port, _CONNECT)
            store.set(_TOKEN, world.token)
            return store
    raise OSError(f"rendezvous: none of the ports {', '.join(map(str, world.ports))} is free on {world.addr}")


def _found(world: World) -> TCPStore:
    """Where the token is: on a port that rank 0 found taken, another job may serve its own store."""
    deadline = time.monotonic() + _CONNECT.total_seconds()
    while time.monotonic() < deadline:
        for port in world.ports:
            answer: Queue[TCPStore | None] = Queue()
            Thread(target=_probe, args=(world, port, answer), daemon=True).start()
            with suppress(Empty):  # a TCPStore waits without limit for a listener that never answers
                store = answer.get(timeout=2 * _GREETING.total_seconds())
                if store is not None:
                    return store
        time.sleep(_POLL_S)
    raise OSError(f"rendezvous: rank 0 did not serve the store of {world} within {_CONNECT}")


def _probe(world: World, port: int, answer: Queue[TCPStore | None]) -> None:
    """Answer with the store on that port, or None where it is not the one of this world."""
    from torch.distributed import DistError

    with suppress(OSError, DistError):
        socket.create_connection((world.addr, port), timeout=1).close()
        store = _client(world, port, _GREETING)
        if wait(store, [_TOKEN], 1.0) and store.get(_TOKEN).decode() == world.token:
            return answer.put(store)
    answer.put(None)


def wait(store: Store, keys: list[str], limit_s: float, stop: StopFlag | None = None) -> bool:
    """Wait until all keys are set; false: not within the limit. Polls, because a blocking wait would keep Python from
    running a signal handler.

    Raises:
        SystemExit: `stop` received SIGINT or SIGTERM meanwhile. A preemption signal can wait for the first step: a
            rank that has already passed this point would otherwise wait for one that has exited.
    """
    deadline = time.monotonic() + limit_s
    while not store.check(keys):
        if stop is not None and stop.signal is not None and stop.signal not in PREEMPTION_SIGNALS:
            raise SystemExit(128 + stop.signal)
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True


class Channel:
    """Messages in order: rank 0 sends, every other rank receives each of them."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._store = connect(world)
        self._messages = 0
        self._jobs = 0

    def send(self, **message: Any) -> None:
        """Send to all other ranks (rank 0)."""
        self._messages += 1
        self._store.set(f"dcp_runner/message/{self._messages}", json.dumps(message))

    def receive(self) -> dict[str, Any]:
        """The next message, however long it takes (all other ranks).

        Raises:
            torch.distributed.DistNetworkError: the store is gone, because rank 0 or its launcher has died.
        """
        self._messages += 1
        key = f"dcp_runner/message/{self._messages}"
        wait(self._store, [key], inf)
        message: dict[str, Any] = json.loads(self._store.get(key))
        return message

    def finish_job(self, *, wait_for_rank_0: bool = False) -> None:
        """The last call of a job (all ranks). Rank 0 waits until the others have received all its messages; with
        `wait_for_rank_0` the others wait for rank 0 too.
        """
        from torch.distributed import DistError

        self._jobs += 1
        keys = [f"dcp_runner/finished/{self._jobs}/{rank}" for rank in range(self._world.size)]
        with suppress(DistError):  # the store of a dead peer is gone
            self._store.set(keys[self._world.rank], "")
            if self._world.rank == 0:
                wait(self._store, keys, _OTHERS_S)
            elif wait_for_rank_0:
                wait(self._store, keys[:1], _RANK_0_S)


@cache
def channel(world: World) -> Channel:
    """The only channel of this process."""
    return Channel(world)
