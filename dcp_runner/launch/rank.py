"""Inside a rank: log, meet the others, verify that all have the same configuration, train, and record how it ended."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, suppress
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from dcp_runner.common import logs
from dcp_runner.common.device import device_of
from dcp_runner.common.errors import ConfigError, FileAccessError
from dcp_runner.common.launch_env import World
from dcp_runner.common.run_context import RunContext
from dcp_runner.common.run_dir import RunDir
from dcp_runner.common.signals import StopFlag
from dcp_runner.config.convert import from_plain
from dcp_runner.config.schema import RunConfig
from dcp_runner.launch import outcomes, rendezvous
from dcp_runner.launch.job import Job

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

log = logging.getLogger(__name__)
MEETING_S = 600.0
"""How long the ranks wait for each other at the start."""


def run_rank(job: Job, world: World | None, stop: StopFlag) -> RecordFailure:
    """Take part in a run as the rank in `world`; as the only rank without one. Returns how it ended; never raises.

    1. log into the run folder
    2. compare the configuration with that of the other ranks
    3. open the process group
    4. call the job's entry
    5. close the process group, unless something failed
    """
    rank, size = (world.rank, world.size) if world else (0, 1)
    config = from_plain(job.config)
    context = RunContext(
        run_dir=Path(job.run_dir),
        attempt=job.attempt,
        rank=rank,
        world_size=size,
        local_rank=world.local_rank if world else 0,
        local_world_size=world.local_size if world else 1,
        config_hash=job.config_hash,
        config=job.config,
        stop=stop,
        node_sizes=world.node_sizes if world else (),
        sweep=job.sweep,
        job=job.job,
        again=job.again,
        dated=job.dated,
    )
    own_log = RunDir(context.run_dir).log_file(rank)
    with RecordFailure(context) as recorded:
        logs.setup(rank, own_log)
        if rank:
            logs.divert_stdout(own_log)
        log.info("%s", world or "one rank, in this process")
        if world is not None and size > 1:
            from torch._C._distributed_c10d import PrefixStore

            meeting = PrefixStore(f"dcp_runner/{job.run_dir}/{job.attempt}", rendezvous.connect(world))
            agree_on_config(meeting, world, job.config_hash, stop)
            _open_process_group(config, world, meeting)
        load_entry_point(job.entry)(config, context)
        _close_process_group()
    return recorded


class RecordFailure(AbstractContextManager["RecordFailure"]):
    """Turns the end of a rank into an exit code, and a failure into a record (see outcomes.py)."""

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self.code = 0
        """For the process."""
        self.failure: outcomes.FailureRecord | None = None
        """How it failed, if it did."""
        self.is_written = False
        """Whether the record is in the run folder; not where that is full, gone or unwritable."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> bool:
        self.code = outcomes.exit_code(error)
        if error is not None and not isinstance(error, KeyboardInterrupt) and not _is_plain_exit(error):
            self.failure = self._record(error)
        return True

    def _record(self, error: BaseException) -> outcomes.FailureRecord:
        failure = outcomes.failure_record(error, self._context.rank)
        folder = RunDir(self._context.run_dir).attempt(self._context.attempt).outcomes
        with suppress(OSError):  # a folder that cannot be written may be the very failure
            outcomes.write_failure_record(folder, failure)
            self.is_written = True
        if failure.is_consequence:
            outcomes.wait_for_failure_records(folder, self._context.world_size)
        with suppress(FileAccessError):
            log.error("this rank failed", exc_info=error, extra=logs.FILE_ONLY)
        return failure


def _is_plain_exit(error: BaseException) -> bool:
    """Not one with a text, which is a failure with its reason."""
    return isinstance(error, SystemExit) and (error.code is None or isinstance(error.code, int))


def load_entry_point(path: str) -> Any:
    """The function at `module:name`."""
    module, name = path.split(":")
    return getattr(import_module(module), name)


def agree_on_config(meeting: Store, world: World, digest: str, stop: StopFlag) -> None:
    """Compare the digest of the configuration on all ranks; rank 0 tells the verdict. No rank is waited for for ever.

    Raises:
        ConfigError: the same on every rank, naming those that differ from rank 0 or have not appeared.
        SystemExit: a signal asked to stop.
    """
    keys = [f"config/{rank}" for rank in range(world.size)]
    verdict = "config/verdict"
    meeting.set(keys[world.rank], digest)
    if world.rank == 0:
        if rendezvous.wait(meeting, keys, MEETING_S, stop):
            odd = [rank for rank, found in enumerate(meeting.multi_get(keys)) if found.decode() != digest]
            text = f"config: rank {_list(odd)} has another configuration than rank 0" if odd else ""
        else:
            absent = [rank for rank, key in enumerate(keys) if not meeting.check([key])]
            text = f"rank {_list(absent)} did not appear within {MEETING_S:.0f} s"
        meeting.set(verdict, text)
    elif not rendezvous.wait(meeting, [verdict], 2 * MEETING_S, stop):
        raise ConfigError("rank 0 did not answer when the ranks compared their configurations")
    if problem := meeting.get(verdict).decode():
        raise ConfigError(problem)


def _list(ranks: list[int]) -> str:
    return ", ".join(str(rank) for rank in ranks)


def _open_process_group(config: RunConfig, world: World, meeting: Store) -> None:
    import torch.distributed as dist

    device = device_of(config.trainer.device, world.local_rank, world.local_size)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    limit = timedelta(seconds=config.parallel.timeout_s)
    dist.init_process_group(backend, store=meeting, rank=world.rank, world_size=world.size, timeout=limit)


def abandon_process_group() -> None:
    """After a failure, in a process that continues with another job: no rank waits for another."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


def _close_process_group() -> None:
    """After the last message of every rank has arrived; a rank that failed exits without this."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
