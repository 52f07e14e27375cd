"""Committed checkpoints seen from one process: which there are, whether they are whole, and their files. Needs no
ranks and no live objects.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

from dcp_runner.checkpoint.digest import hash_bytes
from dcp_runner.checkpoint.errors import IntegrityError
from dcp_runner.checkpoint.manifest import CheckpointManifest
from dcp_runner.checkpoint.storage import MANIFEST, Storage, listing
from dcp_runner.checkpoint.tensorfile import TensorFile, check_plain


def parse_manifest(data: bytes) -> CheckpointManifest:
    """The manifest of these bytes. Raises IntegrityError."""
    return CheckpointManifest.parse(data, hash_bytes)


def read_manifest(folder: Path) -> bytes:
    """The bytes of a checkpoint's manifest, unchecked. Raises IntegrityError where there is none."""
    try:
        return (folder / MANIFEST).read_bytes()
    except OSError as error:
        raise IntegrityError(f"{folder.name}: no {MANIFEST} can be read there ({error.strerror})") from error


def check_whole(folder: Path) -> CheckpointManifest:
    """The manifest, if the folder holds exactly the files that it lists, in the right sizes. Contents are not read.

    Raises IntegrityError that names every missing, extra and wrongly sized file, and for the folder of another step.
    """
    manifest = parse_manifest(read_manifest(folder))
    if re.fullmatch(r"checkpoint-\d+", folder.name) and folder.name != f"checkpoint-{manifest.step}":
        raise IntegrityError(f"{folder.name}: its manifest is that of step {manifest.step}")
    found, listed = listing(folder), {name: record.size for name, record in manifest.files.items()}
    problems = [f"{name} is missing" for name in listed if name not in found]
    problems += [f"{name} is not listed in the manifest" for name in found if name not in listed]
    problems += [
        f"{name} has {found[name]} bytes, the manifest says {size}"
        for name, size in listed.items()
        if name in found and found[name] != size
    ]
    if problems:
        raise IntegrityError(f"{folder.name}: " + "; ".join(problems))
    return manifest


def check_files(folder: Path, manifest: CheckpointManifest, names: Iterable[str]) -> None:
    """Read these files whole and compare them with their digests. Raises IntegrityError that names every bad one."""
    problems = []
    for name in names:
        record = manifest.files[name]
        try:
            if name.endswith(".safetensors"):
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


def whole_checkpoints(storage: Storage) -> tuple[list[tuple[int, CheckpointManifest]], list[str]]:
    """Committed and whole ones by ascending step; and for each other folder of that name why it is not."""
    good, bad = [], []
    for step in storage.steps():
        try:
            good.append((step, check_whole(storage.path(step))))
        except IntegrityError as error:
            bad.append(str(error))
    return good, bad


def superfluous_retired(storage: Storage, keep: int) -> list[str]:
    """Names of all retired checkpoints but so many of those that were saved last; unreadable ones count as oldest."""
    retired = storage.retired()
    if len(retired) <= keep:
        return []
    return [folder.name for folder in sorted(retired, key=_saved_at)[: len(retired) - keep]]


def _saved_at(folder: Path) -> tuple[str, int]:
    try:
        manifest = parse_manifest(read_manifest(folder))
    except IntegrityError:
        return "", 0
    return manifest.created, manifest.step


def find(storage: Storage, which: int | str | Path, metric: str, mode: Literal["min", "max"]) -> Path:
    """The folder that `latest`, `best`, a step or a path means; of equally good ones the newest is the best.

    Raises FileNotFoundError that says what is there instead.
    """
    if isinstance(which, int) or str(which).isdigit():
        folder = storage.path(int(str(which)))
        if not folder.is_dir():
            raise FileNotFoundError(f"there is no {folder.name} in {storage.root}; there are: {_steps(storage)}")
        return folder
    if which not in ("latest", "best"):
        folder = Path(which)
        if not (folder / MANIFEST).is_file():
            raise FileNotFoundError(f"{folder} is no checkpoint: it has no {MANIFEST}")
        return folder
    good, bad = whole_checkpoints(storage)
    told = "".join(f"\n  not counted: {reason}" for reason in bad)
    if not good:
        raise FileNotFoundError(f"there is no checkpoint in {storage.root}{told}")
    if which == "latest":
        return storage.path(good[-1][0])
    sign = 1 if mode == "min" else -1
    told_by = {step: manifest.metrics[metric] for step, manifest in good if metric in manifest.metrics}
    scored = [(sign * value, -step) for step, value in told_by.items() if not math.isnan(value)]
    if not scored:
        raise FileNotFoundError(f"no checkpoint in {storage.root} has the metric {metric!r}{told}")
    return storage.path(-min(scored)[1])


def _steps(storage: Storage) -> str:
    return ", ".join(str(step) for step in storage.steps()) or "none"
