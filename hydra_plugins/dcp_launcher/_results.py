"""What Hydra's sweeper gets for each job: what its function has returned, or why it failed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig

from dcp_runner.launch.broadcast import RunFailed
from dcp_runner.launch.submitit_private import pickle_load
from dcp_runner.sweep.record import JobRecord, JobState, Sweep
from dcp_runner.sweep.status import most_useful_logs, summary
from hydra_plugins.dcp_launcher._planned import PlannedJob
from hydra_plugins.dcp_launcher._sweep_job import RETURNED

log = logging.getLogger(__name__)


def results(sweep: Sweep, jobs: Sequence[PlannedJob]) -> list[JobReturn]:
    """The results of jobs that have ended, in order; the value of one that failed raises the reason."""
    found = []
    for job in jobs:
        record = job.record
        file = sweep.job_dir(record) / RETURNED
        own: JobReturn | None = pickle_load(file) if file.exists() else None
        if record.state is JobState.done:
            found.append(own or returned(job.cfg, JobStatus.COMPLETED, None))
            continue
        logs = most_useful_logs(sweep, record)
        if logs:
            log.error("job %d %s; log: %s", record.number, record.state, logs[0])
        if own is None or own.status is not JobStatus.FAILED:
            own = returned(job.cfg, JobStatus.FAILED, RunFailed(_reason(record)))
        found.append(own)
    log.info("%s", summary(sweep))
    return found


def _reason(record: JobRecord) -> str:
    return f"job {record.number} {record.state}: {record.reason}"


def returned(cfg: DictConfig, status: JobStatus, value: Any) -> JobReturn:
    """A result that a launcher makes itself."""
    overrides = [str(override) for override in cfg.hydra.overrides.task]
    result = JobReturn(cfg=cfg, overrides=overrides, status=status, task_name=cfg.hydra.job.name)
    result.return_value = value
    return result
