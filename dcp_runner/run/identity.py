"""Which run a folder belongs to: a random id, in the run folder and in its checkpoint root.

<run_dir>/.run.json      {"run": "<32 hex>", "sweep": "<id of the sweep>/<number of the job>", "folder": ...}

The id of the checkpoint root is in the claim of that folder. Both ids move and are copied with their folders. A folder
without an id takes the id of the other; where both have one, they must be the same run.
"""

from __future__ import annotations

import json
import os
import uuid
from dataclasses import asdict
from pathlib import Path

from dcp_runner.checkpoint.errors import ForeignError
from dcp_runner.checkpoint.files.ownership import Identity
from dcp_runner.common.run_context import RunContext
from dcp_runner.common.run_dir import RunDir


def resolve_identity(run: RunContext, root: Path, of_root: Identity) -> Identity:
    """The identity of this start, where the checkpoint root has the identity `of_root` (empty: none).

    Raises ForeignError, with the remedy, where the run folder or the checkpoint root belongs to another run.
    """
    run_dir = str(run.run_dir)
    own = _read(run.run_dir)
    if run.sweep and own.sweep and own.sweep != run.sweep:
        raise ForeignError(
            f"{run_dir} is the run folder of {_job_name(own.sweep)}, but this is {_job_name(run.sweep)}; give every "
            f"job its own folder (hydra.sweep.subdir, name=), or start from it with resume={run_dir} in a new folder"
        )
    sweep = run.sweep or own.sweep
    if of_root.run and not _is_same_run(own, of_root, sweep, run):
        whose = f"{_job_name(of_root.sweep)}, " if of_root.sweep else ""
        key = "name=" if root == RunDir(run.run_dir).checkpoints else "checkpoint.root="
        raise ForeignError(
            f"{root} holds the checkpoints of another run ({whose}{of_root.folder}), but this run is {run_dir}; give "
            f"this run another {key}, and to start from those checkpoints add resume={root}"
        )
    return Identity(of_root.run or own.run or uuid.uuid4().hex, sweep, run_dir)


def _is_same_run(own: Identity, of_root: Identity, sweep: str, run: RunContext) -> bool:
    """A new run folder continues with the checkpoints of a fixed root if its name is the time of its start, or if the
    root was last used from the same run folder.
    """
    if sweep and of_root.sweep and sweep != of_root.sweep:
        return False
    if own.run:
        return own.run == of_root.run
    return sweep == of_root.sweep and (bool(sweep) or run.dated or of_root.folder == str(run.run_dir))


def write_identity(run_dir: Path, identity: Identity) -> None:
    """Write the identity into the run folder, in one step."""
    if _read(run_dir) != identity:
        file = RunDir(run_dir).identity_file
        tmp_path = file.with_name(f"{file.name}.{os.getpid()}")
        tmp_path.write_text(json.dumps(asdict(identity), indent=1), encoding="utf-8")
        tmp_path.replace(file)


def _read(run_dir: Path) -> Identity:
    try:
        return Identity(**json.loads(RunDir(run_dir).identity_file.read_text(encoding="utf-8")))
    except (FileNotFoundError, json.JSONDecodeError):  # the latter: torn by a power failure
        return Identity()


def _job_name(sweep: str) -> str:
    id, _, number = sweep.rpartition("/")
    return f"job {number} of sweep {id[:8]}"
