"""Committed checkpoints seen from one process: which there are, and which one is asked for. Needs no ranks and no live
objects.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeGuard

from dcp_runner.checkpoint.errors import IntegrityError, MissingCheckpointError, NewerFormatError
from dcp_runner.checkpoint.files.access import DeletionGuard
from dcp_runner.checkpoint.files.integrity import (
    ValidCheckpoint,
    is_named_as_checkpoint,
    manifest_of,
    read_manifest,
    valid_checkpoint,
)
from dcp_runner.checkpoint.files.manifest import CheckpointManifest
from dcp_runner.checkpoint.files.storage import MANIFEST, Storage
from dcp_runner.common.errors import FileAccessError
from dcp_runner.common.files import is_there

BestBy = tuple[str, Literal["min", "max"]]
"""The metric by which a checkpoint is the best, and whether a smaller or a larger value is better."""
BEST_BY: BestBy = ("eval_loss", "min")


def valid_checkpoints(storage: Storage) -> dict[int, ValidCheckpoint]:
    """The valid ones by ascending step. One that is damaged or cannot be read hides no other."""
    found = {}
    for step in storage.steps():
        try:
            found[step] = valid_checkpoint(storage.path(step))
        except (IntegrityError, FileAccessError, NewerFormatError):
            continue
    return found


def is_path(which: int | str | Path) -> TypeGuard[str | Path]:
    """Whether this names a folder; if not, it is a word or a step."""
    return which not in ("latest", "best") and not str(which).isdigit()


def resolve_checkpoint(storage: Storage, which: int | str | Path, best_by: BestBy = BEST_BY) -> Path:
    """The folder that `latest` (the highest committed step), `best`, a step or a path names, whether valid or not.

    Raises MissingCheckpointError that says what is there instead; for `best` what `valid_checkpoint` raises where a
    manifest cannot be read, because that checkpoint may be the best.
    """
    if is_path(which):
        folder = Path(which)
        if not (is_named_as_checkpoint(folder) and is_there(folder)) and not is_there(folder / MANIFEST):
            raise MissingCheckpointError(f"{folder} is no checkpoint: it has no {MANIFEST}")
        return folder
    if which not in ("latest", "best"):
        folder = storage.path(int(str(which)))
        if not is_there(folder):
            there = ", ".join(map(str, storage.steps())) or "none"
            raise MissingCheckpointError(f"there is no {folder.name} in {storage.root}; there are: {there}")
        return folder
    steps = storage.steps()
    if not steps:
        raise MissingCheckpointError(f"there is no checkpoint in {storage.root}")
    if which == "latest":
        return storage.path(steps[-1])
    best = _best(_manifests(storage), best_by)
    if best is None:
        raise MissingCheckpointError(f"no checkpoint in {storage.root} has the metric {best_by[0]!r}")
    return storage.path(best)


def _manifests(storage: Storage) -> dict[int, CheckpointManifest]:
    """Those of all committed checkpoints by step, but for checkpoints that are deleted meanwhile."""
    found = {}
    for step in storage.steps():
        folder = storage.path(step)
        try:
            with DeletionGuard(folder):
                found[step] = manifest_of(folder, read_manifest(folder))
        except MissingCheckpointError:
            continue
    return found


def _best(manifests: Mapping[int, CheckpointManifest], best_by: BestBy) -> int | None:
    """The step with the best value, which NaN never is; of equally good ones the newest."""
    metric, mode = best_by
    sign = 1 if mode == "min" else -1
    found = {step: manifest.metrics[metric] for step, manifest in manifests.items() if metric in manifest.metrics}
    scored = [(sign * value, -step) for step, value in found.items() if not math.isnan(value)]
    return -min(scored)[1] if scored else None


def advice(storage: Storage, which: int | str | Path, best_by: BestBy, damaged: Path | None) -> str:
    """What to ask for instead of a damaged checkpoint: the best valid one for `best`, or else the newest valid one.

    `damaged` is the folder where a file in it is known to hold wrong bytes, which no listing shows.
    """
    nearby = Storage(Path(which).resolve().parent) if is_path(which) else storage
    valid = {step: found.manifest for step, found in valid_checkpoints(nearby).items()}
    valid = {s: m for s, m in valid.items() if damaged is None or nearby.path(s).resolve() != damaged.resolve()}
    step = _best(valid, best_by) if which == "best" else max(valid, default=None)
    if step is None:
        return f"\n  no other checkpoint in {nearby.root} is valid"
    if nearby is not storage:
        return f"\n  the next valid one is checkpoint-{step}: ask for it by name (resume={nearby.path(step)})"
    remedy = f"ask for it by its step (resume={step}), or let resume=auto skip what is damaged"
    return f"\n  the next valid one is checkpoint-{step}: {remedy}"
