"""Starts the ranks of a run on this machine with torch's elastic launcher, and finds out how each of them ended.

Elastic starts the ranks, serves the rendezvous store outside of them, passes a stop signal on, and stops the rest when
one fails. It reports a failure of one rank only, often the wrong one: when a rank is killed, the others fail because
of it, and may be seen first. So every rank writes a record when it exits, and a rank without one is known to have been
killed. Elastic answers a failure with SIGTERM, which asks our ranks to stop: they detect the lost peer at their next
collective, and those that do not are killed after `GRACE_S`.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing.synchronize import Barrier
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import TYPE_CHECKING

from dcp_runner.common.launch_env import Starter, from_env
from dcp_runner.common.run_dir import RunDir
from dcp_runner.common.signals import STOP_SIGNALS, StopFlag, pending_signal
from dcp_runner.launch.job import Job
from dcp_runner.launch.outcomes import (
    RunResult,
    read_exit_records,
    read_failure_records,
    write_exit_record,
    write_failure_record,
)
from dcp_runner.launch.preflight.child_process import die_with_parent
from dcp_runner.launch.rank import RecordFailure, load_entry_point, run_rank
from dcp_runner.launch.rank_exits import rank_exits

if TYPE_CHECKING:
    from torch.distributed.launcher.api import LaunchConfig

LOOPBACK = "127.0.0.1"
GRACE_S = 30
"""After a stop signal or the failure of a rank, the ranks have so long to save and exit."""
START_S = 120
"""Within this time all ranks must have been started."""
_NOISY = ("torch.distributed.elastic", "torch.distributed.launcher", "torch.multiprocessing")


def launch(job: Job, size: int, local_size: int, *, start_method: str | None = None) -> RunResult:
    """Run a job on `size` ranks of this machine, as nodes of `local_size` ranks, and wait for all of them.

    A stop signal is passed on to the ranks, which save and exit; a second one kills them.
    """
    load_entry_point(job.entry)  # imported here, once, for all ranks that are forked
    import torch
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch

    method = start_method or ("spawn" if torch.cuda.is_available() else "fork")
    all_started = multiprocessing.get_context(method).Barrier(size)
    failed: dict[int, int] = {}
    ranks = _Ranks()
    pending = pending_signal()
    with _quiet(), _handling(ranks.stop), TemporaryDirectory(prefix="dcp_runner-") as own:
        try:
            start = elastic_launch(_launch_config(size, method), _rank)
            start(job, local_size, os.getpid(), all_started, pending, Path(own))
        except ChildFailedError as error:
            failed = {rank: failure.exitcode for rank, failure in error.failures.items()}
        except SignalException as request:
            ranks.stopped_by = request.sigval
        finally:
            ranks.kill()
        folders = [RunDir(Path(job.run_dir)).attempt(job.attempt).outcomes, Path(own)]
        records = {rank: record for folder in folders for rank, record in read_exit_records(folder).items()}
        failures = {failure.rank: failure for folder in folders for failure in read_failure_records(folder)}
    exits = rank_exits(size, failed, records, killed_now=ranks.killed_now, grace_s=GRACE_S)
    return RunResult(exits, ranks.stopped_by, list(failures.values()))


def _launch_config(size: int, start_method: str) -> LaunchConfig:
    from torch.distributed.launcher.api import LaunchConfig

    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=size,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint=f"{LOOPBACK}:0",
        local_addr=LOOPBACK,
        max_restarts=0,
        start_method=start_method,
        signals_to_handle="SIGHUP,SIGQUIT",
        shutdown_timeout=GRACE_S,
    )


class _Ranks:
    """The processes that elastic starts from now on, and how they are stopped."""

    def __init__(self) -> None:
        self.stopped_by: int | None = None
        """The first stop signal."""
        self.killed_now = False
        """Whether a second one has killed the ranks."""
        self._earlier = set(multiprocessing.active_children())

    def stop(self, number: int, frame: FrameType | None) -> None:
        """Handle a stop signal."""
        from torch.distributed.elastic.multiprocessing.api import SignalException

        if self.stopped_by is not None:
            self.killed_now = True
            return self.kill()
        self.stopped_by = number
        print("Stopping: ranks will save and exit. Press Ctrl-C again to kill them.", file=sys.stderr, flush=True)
        raise SignalException(f"signal {number}", signal.Signals(number))

    def kill(self) -> None:
        """Kill those that have not ended, with the processes that they started."""
        for process in set(multiprocessing.active_children()) - self._earlier:
            if process.pid:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            process.join()


def _rank(job: Job, local_size: int, launcher: int, all_started: Barrier, pending: int | None, own: Path) -> None:
    """The process of one rank, in a session of its own: a terminal's Ctrl-C reaches it once, through the launcher.

    No rank connects to the store before all have been forked: the store's thread resolves the name of each client,
    and a process forked while that thread holds glibc's resolver lock would wait for the lock forever.
    """
    os.setsid()
    die_with_parent(launcher)
    stop = StopFlag(own_session=True).install()
    stop.signal = stop.signal or pending
    all_started.wait(START_S)
    world = from_env(os.environ)
    assert world is not None  # elastic has set torchrun's variables
    world = replace(
        world,
        starter=Starter.internal,
        local_rank=world.rank % local_size,
        local_size=local_size,
        node_sizes=(local_size,) * (world.size // local_size),
    )
    os.environ.update(LOCAL_RANK=str(world.local_rank), LOCAL_WORLD_SIZE=str(local_size))
    os.environ.update(GROUP_RANK=str(world.rank // local_size))
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    ended = run_rank(job, world, stop)
    _write_records(ended, world.rank, RunDir(Path(job.run_dir)).attempt(job.attempt).outcomes, own)
    sys.stdout.flush()
    sys.stderr.flush()
    if ended.code:
        os._exit(ended.code)  # threads that wait for a dead peer must not keep the process alive


def _write_records(ended: RecordFailure, rank: int, outcomes: Path, own: Path) -> None:
    """How this rank ended: in the run folder, or in the launcher's own where that is full, gone or unwritable."""
    try:
        write_exit_record(outcomes, rank, ended.code)
    except OSError:
        write_exit_record(own, rank, ended.code)
    if ended.failure and not ended.is_written:
        write_failure_record(own, ended.failure)


@contextmanager
def _handling(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Let `handler` have the stop signals."""
    before = {number: signal.signal(number, handler) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextmanager
def _quiet() -> Iterator[None]:
    """Elastic logs every failure twice and at length; the launcher reports what matters."""
    loggers = [logging.getLogger(name) for name in logging.root.manager.loggerDict if name.startswith(_NOISY)]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
