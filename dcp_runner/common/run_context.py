"""What a rank knows about the run it takes part in. Plain data: nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dcp_runner.common.signals import StopFlag


@dataclass(frozen=True)
class RunContext:
    """One rank's place in one start of a run. The launcher makes it; the training code reads it."""

    run_dir: Path
    """The run folder, the same on every rank."""
    attempt: int
    """Which start of this run folder it is, from 1."""
    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    """Ranks on this node."""
    config_hash: str
    """Of the configuration as launched; the same on every rank, that has been checked."""
    config: dict[str, Any]
    """The configuration as launched: plain, resolved, ready for JSON."""
    stop: StopFlag = field(default_factory=StopFlag, compare=False)
    """Set by SIGTERM and SIGINT; already installed when the training code starts."""
    node_sizes: tuple[int, ...] = ()
    """Ranks of each node, in the order of the ranks; empty: all are on one node."""
    sweep: str = ""
    """`<id of the sweep>/<number of the job>`; empty: no job of a sweep."""
    job: str = ""
    """What the scheduler starts again, the same at each of its starts; empty: nobody does."""
    again: bool = False
    """Whether this is not the first start of the job."""
    dated: bool = False
    """Whether the run folder's name is the time of the start, and so nobody has chosen it."""
