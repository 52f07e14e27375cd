"""Where a run starts from. `resume=PATH` of another run applies once: the checkpoints that come of it record the parent
checkpoint, so that the same command then continues from them. Another start of the same scheduler job does the same,
whatever it was to resume from.

Runs on rank 0 and only reads.
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
from dcp_runner.run.resume import ResumeError, checkpoint_at


@dataclass(frozen=True)
class ResumeChoice:
    """What this start loads."""

    source: int | str
    """auto, must, never, latest, best, a step, or the path of a `checkpoint-N`."""
    max_step: int
    """No higher step is loaded; 0: nothing is loaded."""
    parent: Mapping[str, Any] = field(default_factory=dict)
    """The checkpoint of another run: `path` as given, made absolute; its `step`; `checkpoint`, the digest of its
    manifest; `run`, the id of its run, if the path is a run folder.
    """
    continues: str = ""
    """Why the run continues from its own newest checkpoint instead of the requested one; empty: it does not."""


def choose_source(source: int | str, job: str, storage: Storage) -> dict[str, Any]:
    """The ResumeChoice, as plain data. `job` is the scheduler's job if this is another start of it.

    Raises ResumeError for a path of another run where this run has checkpoints with another parent, and
    FileNotFoundError or IntegrityError for what does not exist or is damaged.
    """
    return asdict(_choose(source, job, storage))


def _choose(source: int | str, job: str, storage: Storage) -> ResumeChoice:
    steps = storage.steps()
    last = steps[-1] if steps else 0
    if job and (newest := _newest_manifest(storage, steps)) and newest.origin.get("job") == job:
        reason = f"an earlier start of this job has applied resume={source}"
        return ResumeChoice("auto", last, continues=reason)
    if source == "never":
        return ResumeChoice(source, 0)
    if not is_path(source) or source in ("auto", "must"):
        return ResumeChoice(source, int(source) if str(source).isdigit() else last)
    return _choose_path(source, storage, steps)


def _choose_path(path: str | Path, storage: Storage, steps: list[int]) -> ResumeChoice:
    last = steps[-1] if steps else 0
    newest = _newest_manifest(storage, steps)
    recorded = newest.origin.get("beginning", {}) if newest else {}
    reason = f"this run started from {path}"
    if recorded and os.path.realpath(path) == recorded["path"]:  # whatever is at that path now, if anything
        return ResumeChoice("auto", last, continues=reason)
    checkpoint = checkpoint_at(Path(path))
    parent = _parent(Path(path), checkpoint)
    if checkpoint.resolve().parent == storage.root.resolve():
        return ResumeChoice(str(checkpoint), parent.get("step", last))
    if _is_same(parent, recorded):  # the parent was moved or copied, or its path is spelled differently
        return ResumeChoice("auto", last, continues=reason)
    if steps:
        start = f"started from {recorded['path']}" if recorded else "started fresh"
        raise ResumeError(
            f"resume={path} is the checkpoint of another run, but {storage.root} has checkpoints {steps} of a run that "
            f"{start}; give another name= to start from {path}, or resume=auto to continue from these checkpoints"
        )
    return ResumeChoice(str(checkpoint), parent.get("step", 0), parent)


def _is_same(parent: Mapping[str, Any], recorded: Mapping[str, Any]) -> bool:
    """Whether both are the same checkpoint, or run folders of the same run."""
    if not parent or not recorded:
        return False
    return bool(parent["checkpoint"] == recorded["checkpoint"] or "" != parent["run"] == recorded["run"])


def _newest_manifest(storage: Storage, steps: list[int]) -> CheckpointManifest | None:
    """The newest manifest that is not damaged."""
    for step in reversed(steps):
        try:
            return parse_manifest(read_manifest(storage.path(step)))
        except IntegrityError:
            continue
    return None


def _parent(path: Path, checkpoint: Path) -> dict[str, Any]:
    """What is recorded of a parent; empty if the checkpoint is damaged, which the load will report."""
    try:
        data = read_manifest(checkpoint)
        manifest = parse_manifest(data)
    except IntegrityError:
        return {}
    run = "" if checkpoint == path else str(manifest.origin.get("run", ""))
    return {"path": os.path.realpath(path), "step": manifest.step, "checkpoint": hash_bytes(data), "run": run}
