"""Where a run begins: `resume=PATH` of another run is fulfilled once. The checkpoints that come of it record it, so
that the same command goes on from them; and so does another start of the same job, whatever it was to resume from.

Runs on rank 0, and only reads.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dcp_runner.checkpoint.digest import hash_bytes
from dcp_runner.checkpoint.errors import IntegrityError
from dcp_runner.checkpoint.files.catalog import is_path
from dcp_runner.checkpoint.files.integrity import parse_manifest, read_manifest
from dcp_runner.checkpoint.files.manifest import CheckpointManifest
from dcp_runner.checkpoint.files.storage import Storage
from dcp_runner.run.resume import ResumeError, checkpoint_in


@dataclass(frozen=True)
class ResumeChoice:
    """What this start is to load."""

    what: int | str
    """auto, must, never, latest, best, a step, or the path of a `checkpoint-N`."""
    step: int
    """No higher step is loaded; 0: none is."""
    beginning: Mapping[str, Any] = field(default_factory=dict)
    """Of another run's checkpoint: `path` as it was given, made absolute; its `step`; `checkpoint`, the digest of its
    manifest; `run`, the id of its run, where the path is a run folder.
    """
    goes_on: str = ""
    """Why the run goes on from its own newest checkpoint instead of from what was asked for."""


def choose(what: int | str, job: str, storage: Storage) -> dict[str, Any]:
    """The Choice, as plain data. `job` is the scheduler's job where this is another start of it.

    Raises ResumeError for a path of another run where this one has checkpoints that did not begin there, and
    FileNotFoundError or IntegrityError for what is not there.
    """
    return asdict(_choose(what, job, storage))


def _choose(what: int | str, job: str, storage: Storage) -> ResumeChoice:
    steps = storage.steps()
    last = steps[-1] if steps else 0
    if job and (newest := _newest(storage, steps)) and newest.origin.get("job") == job:
        return ResumeChoice("auto", last, goes_on=f"an earlier start of this job has fulfilled resume={what}")
    if what == "never":
        return ResumeChoice(what, 0)
    if not is_path(what) or what in ("auto", "must"):
        return ResumeChoice(what, int(what) if str(what).isdigit() else last)
    newest = _newest(storage, steps)
    beginning = newest.origin.get("beginning", {}) if newest else {}
    told = f"this run began from {what}"
    if beginning and os.path.realpath(what) == beginning["path"]:  # whatever stands there now, if anything does
        return ResumeChoice("auto", last, goes_on=told)
    source = checkpoint_in(Path(what))
    now = _beginning(Path(what), source)
    if source.resolve().parent == storage.root.resolve():
        return ResumeChoice(str(source), now.get("step", last))
    if beginning and now and (now["checkpoint"] == beginning["checkpoint"] or "" != now["run"] == beginning["run"]):
        return ResumeChoice("auto", last, goes_on=told)  # that was moved or copied, or is spelt differently
    if steps:
        began = f"from {beginning['path']}" if beginning else "afresh"
        raise ResumeError(
            f"resume={what} is to be the beginning of this run, but {storage.root} has checkpoints {steps}, which "
            f"began {began}; give another name= to begin from {what}, or resume=auto to go on from those"
        )
    return ResumeChoice(str(source), now.get("step", 0), now)


def _newest(storage: Storage, steps: list[int]) -> CheckpointManifest | None:
    """The newest manifest that is as written."""
    for step in reversed(steps):
        try:
            return _manifest(storage.path(step))
        except IntegrityError:
            continue
    return None


def _beginning(path: Path, source: Path) -> dict[str, Any]:
    """What is recorded of it; nothing where it is damaged, which the load is going to say."""
    try:
        found, data = _manifest(source), read_manifest(source)
    except IntegrityError:
        return {}
    run = "" if source == path else str(found.origin.get("run", ""))
    return {"path": os.path.realpath(path), "step": found.step, "checkpoint": hash_bytes(data), "run": run}


def _manifest(folder: Path) -> CheckpointManifest:
    return parse_manifest(read_manifest(folder))
