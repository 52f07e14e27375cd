"""Whether one checkpoint is valid: its manifest, the files that it lists, and their digests."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dcp_runner.checkpoint.digest import hash_bytes
from dcp_runner.checkpoint.errors import IntegrityError
from dcp_runner.checkpoint.files.access import NO_FILE, DeletionGuard, open_regular, reading
from dcp_runner.checkpoint.files.manifest import CheckpointManifest
from dcp_runner.checkpoint.files.storage import MANIFEST, listing
from dcp_runner.checkpoint.files.tensor_file import TensorFile, check_plain


@dataclass(frozen=True)
class ValidCheckpoint:
    """A checkpoint that has every listed file, in its size."""

    manifest: CheckpointManifest
    data: bytes
    """The manifest's own bytes."""
    unlisted: tuple[str, ...]
    """Paths of what else is in its folder: neither read nor followed."""


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
    """Whether a folder has the name of a committed checkpoint."""
    return re.fullmatch(r"checkpoint-\d+", folder.name) is not None


def valid_checkpoint(folder: Path) -> ValidCheckpoint:
    """The checkpoint, if it has every file that its manifest lists, in the right size. Contents are not read.

    Raises IntegrityError that names every missing and wrongly sized file, and for the folder of another step;
    FileAccessError where the folder cannot be read, MissingCheckpointError where it is not there or is deleted
    meanwhile, NewerFormatError.
    """
    with DeletionGuard(folder):
        data = read_manifest(folder)
        manifest = manifest_of(folder, data)
        return ValidCheckpoint(manifest, data, check_listing(folder, manifest))


def check_listing(folder: Path, manifest: CheckpointManifest) -> tuple[str, ...]:
    """Paths of what the folder holds and the manifest does not list, if every listed file is there in its size.

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
    for path in (PurePosixPath(name), *PurePosixPath(name).parents):
        if found.get(str(path), 0) is None:
            return f"{path}: {NO_FILE}"
    if name not in found:
        return f"{name} is missing"
    return "" if found[name] == size else f"{name} has {found[name]} bytes, the manifest says {size}"


def check_files(folder: Path, manifest: CheckpointManifest, names: Iterable[str]) -> None:
    """Read these files in full and compare them with their digests. Raises IntegrityError that names every damaged one,
    and every one that the manifest does not list.
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
