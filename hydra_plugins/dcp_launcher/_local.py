"""The jobs of a sweep as submitit's local jobs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict
from submitit import Job, LocalExecutor
from submitit.core.utils import UncompletedJobError

log = logging.getLogger(__name__)


@dataclass
class SweepJob:
    """One job, as it travels to its process."""

    context: HydraContext
    task: TaskFunction
    config: DictConfig
    singletons: dict[Any, Any]

    def __call__(self) -> JobReturn:
        setup_globals()
        Singleton.set_state(self.singletons)
        return run_job(
            hydra_context=self.context,
            task_function=self.task,
            config=self.config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )


def launch(
    context: HydraContext,
    task: TaskFunction,
    config: DictConfig,
    job_overrides: Sequence[Sequence[str]],
    first: int,
    parallel_jobs: int,
    timeout_min: int,
) -> Sequence[JobReturn]:
    """Run all jobs, at most `parallel_jobs` at a time; their returns in order. A job that died has status FAILED."""
    configure_log(config.hydra.hydra_logging, config.hydra.verbose)
    folder = Path(str(config.hydra.sweep.dir))
    folder.mkdir(parents=True, exist_ok=True)
    executor = LocalExecutor(folder / ".submitit")
    executor.update_parameters(timeout_min=timeout_min)
    jobs: list[tuple[int, DictConfig, Job[JobReturn]]] = []
    for number, overrides in enumerate(job_overrides, first):
        sweep_config = context.config_loader.load_sweep_config(config, list(overrides))
        with open_dict(sweep_config):
            sweep_config.hydra.job.id = sweep_config.hydra.job.num = number
        for _, _, earlier in jobs[: max(0, len(jobs) + 1 - parallel_jobs)]:
            earlier.wait()
        log.info("job %d starts: %s", number, " ".join(filter_overrides(list(overrides))) or "(no overrides)")
        job = SweepJob(context, task, sweep_config, Singleton.get_state())
        jobs.append((number, sweep_config, executor.submit(job)))
    return [_outcome(number, sweep_config, job) for number, sweep_config, job in jobs]


def _outcome(number: int, config: DictConfig, job: Job[JobReturn]) -> JobReturn:
    try:
        result = job.result()
    except UncompletedJobError as error:
        result = JobReturn(cfg=config, status=JobStatus.FAILED, overrides=_overrides(config))
        result.return_value = error
    if result.status is JobStatus.FAILED:
        log.error("job %d failed; its output: %s", number, job.paths.stdout)
    else:
        log.info("job %d is done", number)
    return result


def _overrides(config: DictConfig) -> list[str]:
    return [str(override) for override in OmegaConf.to_container(config.hydra.overrides.task)]  # type: ignore[union-attr]
