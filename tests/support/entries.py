"""What ranks do in these tests instead of training. Each is called as (config, run)."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages

import torch
import torch.distributed as dist

import dcp_runner
from dcp_runner.checkpoint.errors import CheckpointError, RankFailure
from dcp_runner.common.errors import UserError
from dcp_runner.common.run_context import RunContext
from dcp_runner.config.schema import RunConfig

log = logging.getLogger("entries")


def meet(config: RunConfig, run: RunContext) -> None:
    """All ranks meet once, and each leaves its facts."""
    total = torch.ones(1)
    if run.world_size > 1:
        dist.all_reduce(total)
    assert total.item() == run.world_size
    line = f"{run.rank} {run.world_size} {run.local_rank} {run.local_world_size} {run.attempt} {run.config_hash}"
    (run.run_dir / f"fact-{run.rank}").write_text(f"{line} {run.run_dir} {os.environ.get('RANK')}")


def chatter(config: RunConfig, run: RunContext) -> None:
    """Every rank logs, warns and prints."""
    warnings.simplefilter("default")
    log.info("one message")
    log.warning("one warning")
    warnings.warn("from python", UserWarning, stacklevel=1)
    print("printed", flush=True)
    os.write(1, b"written\n")


def raises_with_seed_0(config: RunConfig, run: RunContext) -> None:
    if config.seed == 0:
        raises(config, run)
    meet(config, run)


def raises(config: RunConfig, run: RunContext) -> None:
    """Rank 1 raises; the others wait for it."""
    if run.rank == 1:
        raise ValueError("boom")
    dist.barrier()


def all_raise_the_same(config: RunConfig, run: RunContext) -> None:
    raise CheckpointError("write", [RankFailure(2, "some-host", "OSError", "disk full")], alive=[0, 1])


def killed_while_others_wait(config: RunConfig, run: RunContext) -> None:
    if run.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.barrier()


def stopped_while_others_wait(config: RunConfig, run: RunContext) -> None:
    """Rank 0 waits for it, and rank 2, from a second later on, for rank 0, as in a pipeline."""
    if run.rank == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(run.rank / 2)
    dist.recv(torch.ones(1), src={0: 1, 2: 0}[run.rank])


def killed_while_others_work(config: RunConfig, run: RunContext) -> None:
    """The others never talk to anybody again, and answer no signal but the last."""
    if run.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    work(config, run)


def work(config: RunConfig, run: RunContext) -> None:
    """For ever, in small pieces, whatever is asked."""
    ready(run)
    while True:
        time.sleep(0.01)


def work_until_asked(config: RunConfig, run: RunContext) -> None:
    """As the training loop: a signal is read at a boundary, and then all leave together."""
    ready(run)
    while run.stop.signal is None:
        time.sleep(0.01)
    if run.world_size > 1:
        dist.barrier()
    log.info("saved")
    raise SystemExit(128 + run.stop.signal)


def leaves(config: RunConfig, run: RunContext) -> None:
    if run.rank == 1:
        sys.exit(7)
    dist.barrier()


def ready(run: RunContext) -> None:
    """Tell the test that this rank is at work, and its process id."""
    beside = Path(run.run_dir) / f"ready-{run.rank}.tmp"
    beside.write_text(str(os.getpid()))
    beside.rename(beside.with_suffix(""))


def user_errors() -> list[UserError]:
    """One of each kind that our modules define."""
    for module in walk_packages(dcp_runner.__path__, "dcp_runner."):
        if not module.name.endswith("__main__"):
            import_module(module.name)

    def below(kind: type[UserError]) -> Iterator[type[UserError]]:
        yield kind
        for derived in kind.__subclasses__():
            yield from below(derived)

    failure = RankFailure(0, "some-host", "OSError", "the text of CheckpointError")
    kinds = sorted(dict.fromkeys(below(UserError)), key=lambda kind: kind.__name__)
    return [
        kind("write", [failure], [0]) if issubclass(kind, CheckpointError) else kind(f"the text of {kind.__name__}")
        for kind in kinds
        if kind.__module__.startswith("dcp_runner.")
    ]


def raises_a_user_error(config: RunConfig, run: RunContext) -> None:
    """Another kind on every rank; the seed says from which on."""
    if run.world_size > 1:
        dist.barrier()
    raise user_errors()[config.seed + run.rank]
