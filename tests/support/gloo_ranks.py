"""Real ranks for tests: processes forked from here that meet in a store which a process outside the ranks hosts, as our launcher does.

    with Ranks(body, 2) as ranks:
        values = ranks.wait()

`body(rank)` runs on every rank, and its value comes back; an exception comes back as data (see `caught`). Nothing here starts a thread
or a process group in the test's own process. Whatever is not done in time is killed, and is a failure of the test.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import pickle
import signal
import socket
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import connection, get_context
from pathlib import Path
from typing import Any

import torch._dynamo  # noqa: F401 (what optimizers import; once here, not in every fork)
import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore

from dcp_runner.checkpoint.errors import CheckpointError
from dcp_runner.checkpoint.sync.comm import Comm

LOOPBACK = "127.0.0.1"
LIMIT_S = 60.0
PATIENCE_S = 30.0
"""Time-out of exchanges where none is expected to be missed."""

Body = Callable[["Rank"], Any]


@dataclass
class Rank:
    """What a body knows: its number, how many there are, and where the store is."""

    number: int
    size: int
    port: int
    host_pid: int

    def __post_init__(self) -> None:
        self._store = TCPStore(LOOPBACK, self.port, is_master=False, timeout=timedelta(seconds=LIMIT_S))

    def meet(self) -> None:
        """Wait until all ranks are connected to the store."""
        self.meet_again("the store")

    def meet_again(self, name: str) -> None:
        """Wait until all ranks have come to this place."""
        if self._store.add(f"met at {name}", 1) == self.size:
            self._store.set(f"all met at {name}", "")
        self._store.wait([f"all met at {name}"])

    def store(self, name: str) -> PrefixStore:
        return PrefixStore(name, self._store)

    def comm(
        self, name: str, size: int | None = None, *, kind: Any = Comm, timeout_s: float = PATIENCE_S, **more: Any
    ) -> Any:
        """A Comm among the first `size` ranks, in a part of the store of its own."""
        return kind(self.store(name), self.number, size or self.size, timeout_s=timeout_s, **more)

    @contextmanager
    def process_group(self) -> Iterator[None]:
        """The default process group of all ranks."""
        dist.init_process_group(
            "gloo", store=self._store, rank=self.number, world_size=self.size, timeout=timedelta(seconds=PATIENCE_S)
        )
        try:
            yield
        finally:
            dist.destroy_process_group()


@dataclass
class Ended:
    """How a call ended: its value, or its exception as data."""

    value: Any = None
    error: str = ""
    """Type name of the exception; empty where there was none."""
    text: str = ""
    where: str = ""
    """The traceback."""
    seconds: float = 0.0
    phase: str = ""
    culprits: tuple[int, ...] = ()
    types: frozenset[str] = frozenset()
    alive: tuple[int, ...] = ()


DEAD = Ended(error="Dead", text="the process ended without a result")


def caught(call: Callable[[], Any]) -> Ended:
    """Call, and tell how it ended."""
    start = time.monotonic()
    try:
        ended = Ended(call())
    except Exception as error:
        ended = Ended(error=type(error).__name__, text=str(error), where=traceback.format_exc())
        if isinstance(error, CheckpointError):
            ended.phase, ended.types, ended.alive = error.phase, error.types, error.alive
            ended.culprits = tuple(failure.rank for failure in error.failures)
    ended.seconds = time.monotonic() - start
    return ended


class Ranks:
    """So many ranks that run a body, and the process that hosts their store."""

    def __init__(self, body: Body, size: int, *, limit_s: float = LIMIT_S) -> None:
        self.size = size
        self.deadline = time.monotonic() + limit_s
        self._ended: dict[int, Ended] = {}
        context = get_context("fork")
        parent = os.getpid()
        with socket.create_server((LOOPBACK, 0)) as listener:
            port = listener.getsockname()[1]
            self.host = context.Process(target=_host, args=(listener, parent), daemon=True)
            self.host.start()
        self.processes, self._ends = [], []
        for number in range(size):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(
                target=_rank, args=(body, number, size, port, self.host.pid, theirs, parent, limit_s), daemon=True
            )
            process.start()
            theirs.close()
            self.processes.append(process)
            self._ends.append(ours)

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, *_: object) -> None:
        for process in (*self.processes, self.host):
            process.kill()
            process.join()
        for end in self._ends:
            end.close()

    def ended(self, *numbers: int) -> list[Ended]:
        """How the body ended on these ranks (or all); DEAD for a killed one. Fails where one is not done in time."""
        wanted = numbers or range(self.size)
        while any(number not in self._ended for number in wanted):
            pending = {self._ends[number]: number for number in range(self.size) if number not in self._ended}
            ready = connection.wait(list(pending), max(0.0, self.deadline - time.monotonic()))
            if not ready:
                others = "".join(f"\nrank {number}: {one.text}\n{one.where}" for number, one in self._ended.items())
                raise AssertionError(f"ranks {sorted(pending.values())} are not done in time{others}")
            for end in ready:
                try:
                    self._ended[pending[end]] = pickle.loads(end.recv_bytes())
                except EOFError:
                    self._ended[pending[end]] = DEAD
        return [self._ended[number] for number in wanted]

    def wait(self) -> list[Any]:
        """The values of all ranks. Fails where a rank raised."""
        ended = self.ended()
        for number, one in enumerate(ended):
            assert not one.error, f"rank {number}: {one.error}: {one.text}\n{one.where}"
        return [one.value for one in ended]

    def signal(self, number: int, what: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.processes[number].pid or 0, what)


def run(body: Body, size: int, *, limit_s: float = LIMIT_S) -> list[Any]:
    """The values of `body` on so many ranks."""
    with Ranks(body, size, limit_s=limit_s) as ranks:
        return ranks.wait()


@dataclass(frozen=True)
class Case:
    """One of many things to do in one start of ranks: a body for the first `size` ranks."""

    size: int
    body: Body


def batch(cases: Mapping[str, Case], *, limit_s: float = LIMIT_S) -> dict[str, list[Ended]]:
    """How each case ended on each of its ranks; all in one start. A case that fails does not keep the next from running."""

    def body(rank: Rank) -> dict[str, Ended]:
        mine = {name: case for name, case in cases.items() if rank.number < case.size}
        return {name: caught(lambda case=case: case.body(rank)) for name, case in mine.items()}

    everyone = run(body, max(case.size for case in cases.values()), limit_s=limit_s)
    return {name: [told[name] for told in everyone[: case.size]] for name, case in cases.items()}


def together(cases: Mapping[str, Case], *, limit_s: float = LIMIT_S) -> dict[str, list[Any]]:
    """The values of each case on its ranks; each in a start of its own, all at the same time."""
    with ExitStack() as stack:
        started = {
            name: stack.enter_context(Ranks(case.body, case.size, limit_s=limit_s)) for name, case in cases.items()
        }
        return {name: ranks.wait() for name, ranks in started.items()}


def values(ended: Sequence[Ended]) -> list[Any]:
    """The values of a case. Fails where a rank raised."""
    for number, one in enumerate(ended):
        assert not one.error, f"rank {number}: {one.error}: {one.text}\n{one.where}"
    return [one.value for one in ended]


def visible(folder: Path) -> list[str]:
    """Names in a folder of checkpoints, but for the claim of it."""
    return sorted(name for name in os.listdir(folder) if not name.startswith(".owner-"))


def _host(listener: socket.socket, parent: int) -> None:
    _die_with(parent)
    port = listener.getsockname()[1]
    store = TCPStore(LOOPBACK, port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach())
    while store is not None:
        signal.pause()


def _rank(
    body: Body, number: int, size: int, port: int, host_pid: int, result: Any, parent: int, limit_s: float
) -> None:
    _die_with(parent)
    faulthandler.dump_traceback_later(0.9 * limit_s, exit=True)  # tells where it hangs
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    warnings.filterwarnings("ignore", "ComplexHalf")
    result.send_bytes(pickle.dumps(caught(lambda: body(Rank(number, size, port, host_pid)))))
    os._exit(0)  # threads that wait for a dead peer must not keep it


def _die_with(parent: int) -> None:
    """Ask the kernel to end this process with the tests' one."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
