"""One job of a sweep, as it is sent to its processes, and what it does in each of them.

Rank 0 runs the job as Hydra does: one run folder, one `.hydra`, one result. The other ranks wait for its configuration,
and call the same function with it.
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

from dcp_runner.common.launch_env import from_env
from dcp_runner.common.signals import PREEMPTION_SIGNALS, StopFlag
from dcp_runner.launch import outcomes
from dcp_runner.launch.broadcast import ConfigBroadcast, RunFailed, follow_once
from dcp_runner.launch.requeue import RESTARTS, restarts
from dcp_runner.launch.submitit_private import cloudpickle_dump, pickle_load

RETURNED = "returned.pkl"


@dataclass
class SharedPayload:
    """What all jobs of a submission share; it is sent in a file of its own."""

    context: HydraContext
    task: TaskFunction
    singletons: dict[Any, Any] = field(default_factory=Singleton.get_state)

    def write(self, folder: Path) -> Path:
        """Write it to a new file in a folder; returns the file."""
        file = folder / f"common-{uuid.uuid4().hex}.pkl"
        cloudpickle_dump(self, file)
        return file


@dataclass
class SweepJob:
    """Called without arguments in each task of the job. It exits with 0 only if the job has succeeded."""

    shared: Path
    """The file of the SharedPayload."""
    config: DictConfig
    job_dir: Path
    """Where its starts record their outcomes."""

    def __call__(self) -> None:
        StopFlag(PREEMPTION_SIGNALS).install()
        for number in (signal.SIGTERM, signal.SIGCONT):
            signal.signal(number, signal.SIG_DFL)  # submitit ignores them
        setup_globals()
        shared: SharedPayload = pickle_load(self.shared)
        Singleton.set_state(shared.singletons)
        task = JobEnvironment()
        if task.name() == "local":
            os.environ[RESTARTS] = str(len(list(self.job_dir.glob(f"{task.job_id}.*"))))
        start = self.job_dir / f"{task.job_id}.{restarts(os.environ)}"
        with ExitRecorder(start, task.global_rank):
            world = from_env(os.environ)
            if world is not None and world.rank > 0:
                follow_once(shared.task, world)
            self._run_as_rank_0(shared, task.job_id)

    def _run_as_rank_0(self, shared: SharedPayload, id: str) -> None:
        with read_write(self.config.hydra.job), open_dict(self.config.hydra.job):
            self.config.hydra.job.id = id
        with ConfigBroadcast(shared.task, from_env(os.environ)) as broadcast:
            returned = run_job(
                hydra_context=shared.context,
                task_function=broadcast.task,
                config=self.config,
                job_dir_key="hydra.sweep.dir",
                job_subdir_key="hydra.sweep.subdir",
            )
            temporary = self.job_dir / f"{RETURNED}.tmp"
            cloudpickle_dump(returned, temporary)
            temporary.replace(self.job_dir / RETURNED)
            if returned.status is JobStatus.FAILED:
                _fail(returned)


def _fail(returned: JobReturn) -> NoReturn:
    error = returned._return_value
    if isinstance(error, RunFailed):
        sys.exit(1)  # its ranks have reported why
    raise error


class ExitRecorder(AbstractContextManager["ExitRecorder"]):
    """Records how this task has ended, for `dcp-runner status`."""

    def __init__(self, folder: Path, rank: int) -> None:
        self._folder, self._rank = folder, rank
        folder.mkdir(parents=True, exist_ok=True)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        code = outcomes.exit_code(error)
        if error is not None and not isinstance(error, SystemExit):
            outcomes.write_failure_record(self._folder, outcomes.failure_record(error, self._rank))
        outcomes.write_exit_record(self._folder, self._rank, code)
