"""The metrics in the manifests of a checkpoint root, for retention, which asks after every save: each manifest is read
only once. Runs on one rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from dcp_runner.checkpoint.errors import IntegrityError, NewerFormatError
from dcp_runner.checkpoint.files.integrity import check_listing, manifest_of, parse_manifest, read_manifest
from dcp_runner.checkpoint.files.manifest import CheckpointManifest
from dcp_runner.checkpoint.files.storage import MANIFEST, Storage
from dcp_runner.common.errors import FileAccessError


class SavedMetrics:
    """The metrics of the valid checkpoints."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._read: dict[tuple[int, int, int], CheckpointManifest] = {}
        """By step, inode and time of the file: a step that was retired may be saved anew."""

    def __call__(self) -> dict[int, Mapping[str, float]]:
        """Metrics by step, ascending, without checkpoints that are damaged or cannot be read."""
        found = {}
        for step in self._storage.steps():
            try:
                manifest = self._manifest(step)
                check_listing(self._storage.path(step), manifest)
            except (IntegrityError, FileAccessError, NewerFormatError):
                continue
            found[step] = manifest.metrics
        return found

    def _manifest(self, step: int) -> CheckpointManifest:
        folder = self._storage.path(step)
        try:
            about = (folder / MANIFEST).stat()
            key = (step, about.st_ino, about.st_mtime_ns)
        except OSError:
            return manifest_of(folder, read_manifest(folder))  # raises with the reason
        if key not in self._read:
            self._read[key] = manifest_of(folder, read_manifest(folder))
        return self._read[key]


def retired_to_delete(storage: Storage, keep: int) -> list[str]:
    """Names of the retired checkpoints except the `keep` ones saved last. A damaged one counts as the oldest; one that
    cannot be read stays.
    """
    retired = storage.retired()
    if len(retired) <= keep:
        return []
    known = {folder.name: saved for folder in retired if (saved := _saved_at(folder))}
    return sorted(known, key=lambda name: known[name])[: max(len(known) - keep, 0)]


def _saved_at(folder: Path) -> tuple[str, int] | None:
    try:
        manifest = parse_manifest(read_manifest(folder))
    except IntegrityError:
        return "", 0
    except (FileAccessError, NewerFormatError):
        return None
    return manifest.created, manifest.step
