"""What each rank receives: plain data, the same for every rank, so that it can be sent through a pipe or a store."""

from __future__ import annotations

from dataclasses import dataclass

from dcp_runner.config.schema import RunConfig

TRAIN = "dcp_runner.run.train:train"
"""The rank entry of a training run."""


@dataclass(frozen=True)
class Job:
    """One start of a run."""

    entry: str
    """`module:function`, called as (RunConfig, RunContext) in every rank."""
    config: RunConfig
    """The configuration as launched: resolved and checked, its degrees filled in."""
    config_hash: str
    run_dir: str
    """Absolute."""
    attempt: int
    sweep: str = ""
    job: str = ""
    again: bool = False
    dated: bool = False
    """The last four are as in RunContext."""
