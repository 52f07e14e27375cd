"""Committed checkpoints seen from one process: which there are, whether they are whole, and their files. Needs no
ranks and no live objects.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeGuard

from dcp_runner.checkpoint.errors import IntegrityError, NewerFormatError
from dcp_runner.checkpoint.files.integrity import (
    ValidCheckpoint,
    check_whole,
    is_named_as_checkpoint,
    manifest_of,
    read_manifest,
)
from dcp_runner.checkpoint.files.manifest import CheckpointManifest
from dcp_runner.checkpoint.files.storage import MANIFEST, Storage
from dcp_runner.common.errors import FileAccessError
from dcp_runner.common.files import is_there


def valid_checkpoints(storage: Storage) -> dict[int, ValidCheckpoint]:
    """The valid ones by ascending step. What is damaged or cannot be read hides no other one."""
    found = {}
    for step in storage.steps():
        try:
            found[step] = check_whole(storage.path(step))
        except (IntegrityError, FileAccessError, NewerFormatError):
            continue
    return found


def is_path(which: int | str | Path) -> TypeGuard[str | Path]:
    """Whether this names a folder; if not, it is a word or a step."""
    return which not in ("latest", "best") and not str(which).isdigit()


def resolve_checkpoint(storage: Storage, which: int | str | Path, metric: str, mode: Literal["min", "max"]) -> Path:
    """The folder that `latest` (the highest committed step), `best`, a step or a path names, whether valid or not.

    Raises FileNotFoundError that says what is there instead; for `best` what `check_whole` raises where a manifest
    cannot be read, because that checkpoint may be the best.
    """
    if which not in ("latest", "best") and not is_path(which):
        folder = storage.path(int(str(which)))
        if not is_there(folder):
            there = ", ".join(map(str, storage.steps())) or "none"
            raise FileNotFoundError(f"there is no {folder.name} in {storage.root}; there are: {there}")
        return folder
    if is_path(which):
        folder = Path(which)
        if not (is_named_as_checkpoint(folder) and is_there(folder)) and not is_there(folder / MANIFEST):
            raise FileNotFoundError(f"{folder} is no checkpoint: it has no {MANIFEST}")
        return folder
    steps = storage.steps()
    if not steps:
        raise FileNotFoundError(f"there is no checkpoint in {storage.root}")
    if which == "latest":
        return storage.path(steps[-1])
    folders = {step: storage.path(step) for step in steps}
    best = _best({step: manifest_of(folder, read_manifest(folder)) for step, folder in folders.items()}, metric, mode)
    if best is None:
        raise FileNotFoundError(f"no checkpoint in {storage.root} has the metric {metric!r}")
    return storage.path(best)


def _best(manifests: Mapping[int, CheckpointManifest], metric: str, mode: Literal["min", "max"]) -> int | None:
    """The step with the best value, which NaN never is; of equally good ones the newest."""
    sign = 1 if mode == "min" else -1
    found = {step: manifest.metrics[metric] for step, manifest in manifests.items() if metric in manifest.metrics}
    scored = [(sign * value, -step) for step, value in found.items() if not math.isnan(value)]
    return -min(scored)[1] if scored else None


def advice(
    storage: Storage, which: int | str | Path, metric: str, mode: Literal["min", "max"], damaged: Path | None
) -> str:
    """What to ask for instead of a damaged checkpoint: the best valid one for `best`, or else the newest valid one.

    `damaged` is the folder where it is known that a file in it holds wrong bytes, which no listing shows.
    """
    beside = Storage(Path(which).resolve().parent) if is_path(which) else storage
    valid = {step: whole.manifest for step, whole in valid_checkpoints(beside).items()}
    valid = {s: m for s, m in valid.items() if damaged is None or beside.path(s).resolve() != damaged.resolve()}
    step = _best(valid, metric, mode) if which == "best" else max(valid, default=None)
    if step is None:
        return f"\n  no other valid checkpoint is in {beside.root}"
    if beside is not storage:
        return f"\n  the next valid one is checkpoint-{step}: ask for it by name (resume={beside.path(step)})"
    remedy = f"ask for it by name (resume={step}), or let resume=auto pass over what is damaged"
    return f"\n  the next valid one is checkpoint-{step}: {remedy}"
