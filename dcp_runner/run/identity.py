"""Which run a folder belongs to: a random id, in the run folder and in the folder of its checkpoints.

<run_dir>/.run.json      {"run": "<32 hex>", "sweep": "<id of the sweep>/<number of the job>", "folder": ...}

The checkpoints' id stands in the claim of their folder. Both move and are copied with what they belong to. A folder
without an id takes that of the other; where both have one, they must be the same run.
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


def identify(run: RunContext, root: Path, theirs: Identity) -> Identity:
    """The identity of this start, where the folder of the checkpoints has `theirs` (empty: none).

    Raises ForeignError where the run folder or the checkpoints belong to another run, with the remedy.
    """
    here = str(run.run_dir)
    mine = _read(run.run_dir)
    if run.sweep and mine.sweep and mine.sweep != run.sweep:
        raise ForeignError(
            f"{here} is the run folder of {_job(mine.sweep)}, and this is {_job(run.sweep)}; give every job a folder "
            f"of its own (hydra.sweep.subdir, name=), or begin from that run with resume={here} in another one"
        )
    sweep = run.sweep or mine.sweep
    if theirs.run and not _same(mine, theirs, sweep, run):
        whose = f"{_job(theirs.sweep)}, " if theirs.sweep else ""
        raise ForeignError(
            f"{root} holds the checkpoints of another run ({whose}{theirs.folder}), and this run is {here}; give it a "
            f"folder of its own (name=, checkpoint.root=), or begin from those with resume={root} in another one"
        )
    return Identity(theirs.run or mine.run or uuid.uuid4().hex, sweep, here)


def _same(mine: Identity, theirs: Identity, sweep: str, run: RunContext) -> bool:
    """A new run folder goes on with the checkpoints of a fixed folder where its name is the time of its start, or
    where it is that run's folder again.
    """
    if sweep and theirs.sweep and sweep != theirs.sweep:
        return False
    if mine.run:
        return mine.run == theirs.run
    return sweep == theirs.sweep and (bool(sweep) or run.dated or theirs.folder == str(run.run_dir))


def remember(run_dir: Path, identity: Identity) -> None:
    """Write the identity into the run folder, in one step."""
    if _read(run_dir) != identity:
        file = RunDir(run_dir).identity_file
        temporary = file.with_name(f"{file.name}.{os.getpid()}")
        temporary.write_text(json.dumps(asdict(identity), indent=1), encoding="utf-8")
        temporary.replace(file)


def _read(run_dir: Path) -> Identity:
    try:
        return Identity(**json.loads(RunDir(run_dir).identity_file.read_text(encoding="utf-8")))
    except (FileNotFoundError, json.JSONDecodeError):  # the latter: torn by a power failure
        return Identity()


def _job(sweep: str) -> str:
    id, _, number = sweep.rpartition("/")
    return f"job {number} of sweep {id[:8]}"
