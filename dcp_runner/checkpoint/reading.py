"""Committed checkpoints seen from one process: which there are, whether they are whole, and their files. Needs no
ranks and no live objects.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, TypeGuard

from dcp_runner.checkpoint.digest import hash_bytes
from dcp_runner.checkpoint.errors import FileAccessError, IntegrityError, NewerFormatError
from dcp_runner.checkpoint.files import NO_FILE, is_there, open_regular, reading
from dcp_runner.checkpoint.manifest import CheckpointManifest
from dcp_runner.checkpoint.storage import MANIFEST, Storage, listing
from dcp_runner.checkpoint.tensorfile import TensorFile, check_plain


@dataclass(frozen=True)
class Whole:
    """A checkpoint of which every listed file is there, in its size."""

    manifest: CheckpointManifest
    data: bytes
    """The manifest's own bytes."""
    unlisted: tuple[str, ...]
    """Paths of what else lies in its folder: never read, nor followed."""


def parse_manifest(data: bytes) -> CheckpointManifest:
    """The manifest of these bytes. Raises IntegrityError, NewerFormatError."""
    return CheckpointManifest.parse(data, hash_bytes)


def read_manifest(folder: Path) -> bytes:
    """The bytes of a checkpoint's manifest, unchecked.

    Raises IntegrityError where there is none, FileAccessError where it cannot be read.
    """
    path = folder / MANIFEST
    with reading(path, f"{folder.name}: {MANIFEST}"), open_regular(path) as file:
        return file.read()


def manifest_of(folder: Path, data: bytes) -> CheckpointManifest:
    """The manifest of these bytes. Raises IntegrityError, also for the folder of another step, NewerFormatError."""
    manifest = CheckpointManifest.parse(data, hash_bytes, f"{folder.name}: {MANIFEST}")
    if is_named_as_checkpoint(folder) and folder.name != f"checkpoint-{manifest.step}":
        raise IntegrityError(f"{folder.name}: its manifest is that of step {manifest.step}")
    return manifest


def is_named_as_checkpoint(folder: Path) -> bool:
    return re.fullmatch(r"checkpoint-\d+", folder.name) is not None


def check_whole(folder: Path) -> Whole:
    """The checkpoint, if the folder holds every file that its manifest lists, in the right size. Contents are not read.

    Raises IntegrityError that names every missing and wrongly sized file, and for the folder of another step;
    FileAccessError where the folder cannot be read, NewerFormatError.
    """
    data = read_manifest(folder)
    manifest = manifest_of(folder, data)
    return Whole(manifest, data, check_listing(folder, manifest))


def check_listing(folder: Path, manifest: CheckpointManifest) -> tuple[str, ...]:
    """Paths of what lies in the folder and is not listed, if every listed file is there in its size.

    Raises IntegrityError that names every missing and wrongly sized file, FileAccessError.
    """
    with reading(folder, folder.name):
        found = listing(folder)
    problems = [_problem(name, record.size, found) for name, record in manifest.files.items()]
    if any(problems):
        raise IntegrityError(f"{folder.name}: " + "; ".join(filter(None, problems)))
    return tuple(name for name in found if name not in manifest.files)


def _problem(name: str, size: int, found: Mapping[str, int | None]) -> str:
    """What is wrong with a listed file, or nothing."""
    for place in (PurePosixPath(name), *PurePosixPath(name).parents):
        if found.get(str(place), 0) is None:
            return f"{place}: {NO_FILE}"
    if name not in found:
        return f"{name} is missing"
    return "" if found[name] == size else f"{name} has {found[name]} bytes, the manifest says {size}"


def check_files(folder: Path, manifest: CheckpointManifest, names: Iterable[str]) -> None:
    """Read these files whole and compare them with their digests. Raises IntegrityError that names every bad one, and
    every one that the manifest does not list.
    """
    ours = {file for record in manifest.components.values() for copy in record.copies.values() for file in copy.files}
    problems = []
    for name in names:
        record = manifest.files.get(name)
        try:
            if record is None:
                problems.append(f"{name} is not listed in the manifest")
            elif name in ours:
                with TensorFile(folder / name, name, size=record.size, digest=record.digest) as file:
                    file.check()
            else:
                check_plain(folder / name, name, size=record.size, digest=record.digest)
        except IntegrityError as error:
            problems.append(str(error))
    if problems:
        raise IntegrityError("; ".join(problems))


def open_copy(folder: Path, manifest: CheckpointManifest, names: Iterable[str], stack: ExitStack) -> list[TensorFile]:
    """The files of one copy, opened; `stack` closes them."""
    return [
        stack.enter_context(
            TensorFile(folder / name, name, size=manifest.files[name].size, digest=manifest.files[name].digest)
        )
        for name in names
    ]


def whole_checkpoints(storage: Storage) -> dict[int, Whole]:
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


def find(storage: Storage, which: int | str | Path, metric: str, mode: Literal["min", "max"]) -> Path:
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
    valid = {step: whole.manifest for step, whole in whole_checkpoints(beside).items()}
    valid = {s: m for s, m in valid.items() if damaged is None or beside.path(s).resolve() != damaged.resolve()}
    step = _best(valid, metric, mode) if which == "best" else max(valid, default=None)
    if step is None:
        return f"\n  no other valid checkpoint is in {beside.root}"
    if beside is not storage:
        return f"\n  the next valid one is checkpoint-{step}: ask for it by name (resume={beside.path(step)})"
    remedy = f"ask for it by name (resume={step}), or let resume=auto pass over what is damaged"
    return f"\n  the next valid one is checkpoint-{step}: {remedy}"
