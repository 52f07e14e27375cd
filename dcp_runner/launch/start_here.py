"""Starting the ranks of a run on this machine, and waiting for them."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from dcp_runner.config.schema import RunConfig
from dcp_runner.launch.new_job import new_job
from dcp_runner.launch.preflight.checks import ResolvedRun
from dcp_runner.launch.requeue import requeue_if_stopped

log = logging.getLogger(__name__)


def start_here(run: ResolvedRun, entry: str, start: Mapping[str, Any], *, in_process: bool) -> int:
    """Start the ranks and wait for them, or with `verify_resume` try whether they resume as they should: the exit code.

    `start` says what this start belongs to. A single rank runs in this process if `in_process`, where a debugger can
    see it; each job of a sweep gets its own process, so that it inherits nothing from the one before.
    """
    if run.config.verify_resume:
        return _verify(run, entry)
    return requeue_if_stopped(_ranks(run, entry, start, in_process), run.config.resources.requeues, os.environ)


def _verify(run: ResolvedRun, entry: str) -> int:
    from dcp_runner.run.verify_resume import verify_resume

    def start(config: RunConfig, run_dir: Path) -> int:
        return _ranks(replace(run, config=config, run_dir=run_dir), entry, {}, in_process=False)

    code, lines = verify_resume(run.config, run.run_dir, start)
    print(*lines, sep="\n")
    return code


def _ranks(run: ResolvedRun, entry: str, start: Mapping[str, Any], in_process: bool) -> int:
    from dcp_runner.common.signals import StopFlag
    from dcp_runner.launch import first_failure, local, outcomes
    from dcp_runner.launch.rank import run_rank

    job = new_job(run, entry, start)
    size, nodes = run.config.parallel.world_size, run.config.resources.nodes
    if nodes > 1:
        log.warning("resources.nodes=%d, but no scheduler has started this: all %d ranks run here", nodes, size)
    if size == 1 and in_process:
        with StopFlag() as stop:
            rank = run_rank(job, None, stop)
        ended = outcomes.RunResult([outcomes.RankExit(0, rank.code)], failures=[rank.failure] if rank.failure else [])
    else:
        ended = local.launch(job, size, size // nodes)
    if ended.exit_code == 1:
        print(*first_failure.report(ended, Path(job.run_dir)), sep="\n", file=sys.stderr)
    return ended.exit_code
