"""Everything that we use of submitit beyond what `import submitit` exports. Tested with submitit 1.5.4.

Two more facts of its are not names that could be imported: its controller of local jobs restarts a job that exits with
144 (`launch/requeue.py`), and a task finds the kind of its executor in SUBMITIT_EXECUTOR.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from submitit import LocalExecutor, SlurmExecutor
from submitit.core.submission import submitit_main  # what a task runs: it loads the pickled job and calls it
from submitit.core.utils import cloudpickle_dump, pickle_load  # pickles of functions that are defined in `__main__`
from submitit.slurm.slurm import _make_sbatch_string  # the batch script, also where there is no SLURM

__all__ = ["LocalTasks", "SlurmTasks", "batch_script", "cloudpickle_dump", "pickle_load", "submitit_main"]


class _OwnCommand:
    """Tasks are started by `task_command` in place of submitit's module: overrides a private property."""

    task_command: str

    @property
    def _submitit_command_str(self) -> str:
        return self.task_command


class SlurmTasks(_OwnCommand, SlurmExecutor):
    """Submits jobs to SLURM."""


class LocalTasks(_OwnCommand, LocalExecutor):
    """Starts jobs as processes of this machine."""


def batch_script(command: str, folder: Path, array_size: int | None, parameters: Mapping[str, Any]) -> str:
    """The batch script that `SlurmTasks` would submit with these parameters."""
    return str(_make_sbatch_string(command=command, folder=folder, map_count=array_size, **parameters))
