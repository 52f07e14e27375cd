"""What a rank knows about the run it takes part in. Plain data: nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dcp_runner.common.signals import StopFlag


@dataclass(frozen=True)
class RunContext:
    """One rank of one start of a run. The launcher creates it; the training code reads it."""

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
    """Of the configuration as launched; verified to be the same on every rank."""
    config: dict[str, Any]
    """The configuration as launched: plain, resolved, ready for JSON."""
    stop: StopFlag = field(default_factory=StopFlag, compare=False)
    """Set by stop signals; already installed when the training code starts."""
    node_sizes: tuple[int, ...] = ()
    """Ranks of each node, in the order of the ranks; empty: all are on one node."""
    sweep: str = ""
    """`<id of the sweep>/<number of the job>`; empty: not a job of a sweep."""
    job: str = ""
    """The scheduler's id of the job, the same at each of its restarts; empty: no scheduler restarts it."""
    again: bool = False
    """Whether this is a restart of the job."""
    dated: bool = False
    """Whether the run folder's name is the time of the start, so that no one chose it."""
