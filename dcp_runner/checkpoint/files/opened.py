"""A checkpoint that is being read, with the files of it that are open."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

from dcp_runner.checkpoint.files.integrity import check_files
from dcp_runner.checkpoint.files.manifest import CheckpointManifest
from dcp_runner.checkpoint.files.tensor_file import TensorFile


class OpenedCheckpoint:
    """A checkpoint opened for reading; a context manager that closes its files."""

    def __init__(self, folder: Path, manifest: CheckpointManifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self._stack = ExitStack()
        self._opened: dict[str, TensorFile] = {}

    def __enter__(self) -> OpenedCheckpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self, names: Iterable[str]) -> list[TensorFile]:
        """Files of tensors, each opened once. Raises IntegrityError, FileAccessError."""
        return [self._open(name) for name in names]

    def _open(self, name: str) -> TensorFile:
        if name not in self._opened:
            record = self.manifest.files[name]
            file = TensorFile(self.folder / name, name, size=record.size, digest=record.digest)
            self._opened[name] = self._stack.enter_context(file)
        return self._opened[name]

    def check(self, names: Sequence[str]) -> None:
        """Compare these files in full with their digests; what has been read already is not read again.

        Raises IntegrityError, FileAccessError.
        """
        for name in names:
            if name in self._opened:
                self._opened[name].check()
        check_files(self.folder, self.manifest, [name for name in names if name not in self._opened])

    def close(self) -> None:
        """Close all files; a file system may report an error only then. Raises FileAccessError."""
        self._stack.close()
