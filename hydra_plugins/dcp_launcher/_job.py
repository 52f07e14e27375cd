"""One job of a sweep, as it travels to its processes, and what it does in each of them.

Rank 0 runs the job as Hydra does: one run folder, one `.hydra`, one result. The other ranks wait for the configuration
that it has, and call the same function with it.
"""

from __future__ import annotations

import os
import signal
import sys
import uuid
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict, read_write
from submitit import JobEnvironment
from submitit.core.utils import cloudpickle_dump, pickle_load

from dcp_runner.common.launch_env import from_env
from dcp_runner.common.signals import PREEMPTION_SIGNALS, StopFlag
from dcp_runner.launch import outcomes
from dcp_runner.launch.broadcast import ConfigBroadcast, RunFailed, follow_once
from dcp_runner.launch.requeue import RESTARTS, restarts

RETURNED = "returned.pkl"


@dataclass
class SharedPayload:
    """What all jobs of a submission share, and so travels in a file of its own."""

    context: HydraContext
    task: TaskFunction
    singletons: dict[Any, Any] = field(default_factory=Singleton.get_state)

    def leave(self, folder: Path) -> Path:
        """Write it into a folder; the file."""
        file = folder / f"common-{uuid.uuid4().hex}.pkl"
        cloudpickle_dump(self, file)
        return file


@dataclass
class SweepJob:
    """Called without arguments in every task of the job. Leaves with a true exit code: 0 only if all went well."""

    common: Path
    config: DictConfig
    notes: Path
    """Where its starts leave their notes."""

    def __call__(self) -> None:
        StopFlag(PREEMPTION_SIGNALS).install()
        for number in (signal.SIGTERM, signal.SIGCONT):
            signal.signal(number, signal.SIG_DFL)  # submitit has made them do nothing
        setup_globals()
        common: SharedPayload = pickle_load(self.common)
        Singleton.set_state(common.singletons)
        here = JobEnvironment()
        if here.name() == "local":
            os.environ[RESTARTS] = str(len(list(self.notes.glob(f"{here.job_id}.*"))))
        start = self.notes / f"{here.job_id}.{restarts(os.environ)}"
        with WriteExitRecord(start, here.global_rank):
            world = from_env(os.environ)
            if world is not None and world.rank > 0:
                follow_once(common.task, world)
            self._lead(common, here.job_id)

    def _lead(self, common: SharedPayload, id: str) -> None:
        with read_write(self.config.hydra.job), open_dict(self.config.hydra.job):
            self.config.hydra.job.id = id
        with ConfigBroadcast(common.task, from_env(os.environ)) as leading:
            returned = run_job(
                hydra_context=common.context,
                task_function=leading.task,
                config=self.config,
                job_dir_key="hydra.sweep.dir",
                job_subdir_key="hydra.sweep.subdir",
            )
            beside = self.notes / f"{RETURNED}.tmp"
            cloudpickle_dump(returned, beside)
            beside.replace(self.notes / RETURNED)
            if returned.status is JobStatus.FAILED:
                _fail(returned)


def _fail(returned: JobReturn) -> NoReturn:
    error = returned._return_value
    if isinstance(error, RunFailed):
        sys.exit(1)  # its ranks have told why
    raise error


class WriteExitRecord(AbstractContextManager["WriteExitRecord"]):
    """Leaves a note of how this task has ended, for whoever asks about the sweep."""

    def __init__(self, folder: Path, rank: int) -> None:
        self._folder, self._rank = folder, rank
        folder.mkdir(parents=True, exist_ok=True)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        code = outcomes.exit_code(error)
        if error is not None and not isinstance(error, SystemExit):
            outcomes.write_failure_record(self._folder, outcomes.failure_record(error, self._rank))
        outcomes.write_exit_record(self._folder, self._rank, code)
