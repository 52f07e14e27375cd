"""Ranks meet at a store that is really theirs, whoever else listens on the machine. The ranks are threads here."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from queue import Queue
from threading import Thread
from typing import Any

import pytest
from torch.distributed import TCPStore

from dcp_runner.common.launch_env import Starter, World
from dcp_runner.launch import rendezvous
from dcp_runner.launch.rendezvous import connect

HERE = "127.0.0.1"
LIMIT_S = 20.0
"""None of these tests takes as long, unless ranks do not find each other."""


def free_ports(count: int) -> tuple[int, ...]:
    with ExitStack() as stack:
        return tuple(stack.enter_context(socket.create_server((HERE, 0))).getsockname()[1] for _ in range(count))


def ranks(count: int, ports: tuple[int, ...], token: str = "7.0.0") -> list[World]:
    """As under srun."""
    return [World(Starter.srun, rank, count, rank, count, HERE, ports, token, rank == 0) for rank in range(count)]


def meet(worlds: list[World]) -> list[TCPStore]:
    """The stores of these ranks, of which rank 0 comes last."""
    told: Queue[tuple[int, TCPStore | Exception]] = Queue()

    def one(world: World) -> None:
        try:
            told.put((world.rank, connect.__wrapped__(world)))
        except Exception as error:
            told.put((world.rank, error))

    for world in reversed(worlds):
        Thread(target=one, args=(world,), daemon=True).start()
    found = dict(told.get(timeout=LIMIT_S) for _ in worlds)
    for met in found.values():
        if isinstance(met, Exception):
            raise met
    return [found[world.rank] for world in worlds]


@contextmanager
def other_store(token: str | None) -> Iterator[int]:
    """The port of a store that belongs to somebody else."""
    served = TCPStore(HERE, 0, is_master=True, wait_for_workers=False)
    if token is not None:
        served.set("dcp_runner/token", token)
    yield served.port


@contextmanager
def other_program(talk: Callable[[socket.socket], Any]) -> Iterator[int]:
    """The port of a program that is no store."""

    def serve(server: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = server.accept()
                with client, suppress(OSError):
                    talk(client)

    with socket.create_server((HERE, 0)) as server:
        thread = Thread(target=serve, args=(server,), daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


@contextmanager
def silent_program() -> Iterator[int]:
    """The port of a program that waits for a line of text, as a web server does."""
    with socket.create_server((HERE, 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous, "_GREETING", timedelta(milliseconds=200))


@pytest.mark.parametrize("count", [1, 3])
def test_ranks_meet_at_the_first_port(count: int) -> None:
    ports = free_ports(2)
    first, *others = meet(ranks(count, ports))
    first.set("said", "by rank 0")
    assert [other.get("said") for other in others] == [b"by rank 0"] * (count - 1)
    assert {one.port for one in (first, *others)} == {ports[0]}


SILENT = "a program that says nothing"
OCCUPANTS = {
    "the store of another job": lambda: other_store("8.0.0"),
    "the store of an earlier start": lambda: other_store("7.0.1"),
    "a store that has no token": lambda: other_store(None),
    "a program that hangs up": lambda: other_program(lambda client: None),
    "a program that talks": lambda: other_program(lambda client: client.sendall(b"SSH-2.0-OpenSSH_9.6\r\n" * 9)),
    SILENT: silent_program,
}


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    "occupant",
    [*OCCUPANTS],
)
def test_they_meet_elsewhere_if_it_is_taken(occupant: str) -> None:
    with OCCUPANTS[occupant]() as taken:
        free = free_ports(2)
        first, other = meet(ranks(2, (taken, *free)))
        first.set("said", "by rank 0")
        assert other.get("said") == b"by rank 0"
        assert {first.port, other.port} == {free[0]}


def test_no_port_is_free() -> None:
    with silent_program() as one, silent_program() as two:
        with pytest.raises(OSError, match=f"none of the ports {one}, {two} is free on {HERE}"):
            connect.__wrapped__(ranks(1, (one, two))[0])


def test_rank_0_does_not_appear(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous, "_CONNECT", timedelta(milliseconds=200))
    ports = free_ports(2)
    with pytest.raises(OSError, match=f"rank 0 did not serve the store of rank 1 of 2, .*{HERE}:{ports[0]}"):
        connect.__wrapped__(ranks(2, ports)[1])


@pytest.mark.parametrize("agent", [True, False])
def test_below_torchrun_there_is_one_port(agent: bool) -> None:
    """Whether its agent serves the store or rank 0 does."""
    server = TCPStore(HERE, 0, is_master=True, wait_for_workers=False) if agent else None
    ports = (server.port,) if server else free_ports(1)
    plain = [replace(world, starter=Starter.torchrun, token="") for world in ranks(2, ports)]
    first, other = meet([replace(world, hosts_store=False) for world in plain] if agent else plain)
    first.set("said", "by rank 0")
    assert other.get("said") == b"by rank 0"


def test_a_process_joins_once() -> None:
    (world,) = ranks(1, free_ports(1))
    try:
        assert connect(world) is connect(replace(world))
    finally:
        connect.cache_clear()
