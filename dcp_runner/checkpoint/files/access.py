"""What a file system error means for a checkpoint: damage, deletion by another process, or neither.

A file of a checkpoint that is missing, or is no regular file, is damage; but not where the folder itself has gone
meanwhile, because then its owner has deleted the checkpoint. Every other error (a failing disk, a stale handle, a
missing permission, too many open files) says nothing about the bytes on the disk: it is reported with its cause, and no
checkpoint is skipped or retired for it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import BufferedReader
from pathlib import Path

from dcp_runner.checkpoint.errors import IntegrityError, MissingCheckpointError
from dcp_runner.common.errors import FileAccessError
from dcp_runner.common.files import cause

NO_FILE = "is a link or a special file"
_DAMAGE = {
    errno.ENOENT: "is missing",
    errno.ENOTDIR: "is missing",
    errno.EISDIR: "is a folder",
    errno.ELOOP: NO_FILE,
}


@contextmanager
def reading(path: Path, name: str) -> Iterator[None]:
    """Around every access to what a checkpoint holds; `name` is its path inside the checkpoint.

    Raises IntegrityError with the name where it is missing or no regular file, FileAccessError with the path where it
    cannot be read.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _DAMAGE:
            raise IntegrityError(f"{name}: {_DAMAGE[error.errno]} ({error.strerror})") from error
        raise FileAccessError(f"{path}: cannot be read: {cause(error)}") from error


class DeletionGuard:
    """Around everything that reads a checkpoint, which another process may delete meanwhile.

    Turns an IntegrityError or FileAccessError into a MissingCheckpointError where the folder that was there when the
    guard was made has been deleted, renamed or replaced. Making it raises MissingCheckpointError where there is none.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            self._inode = _inode_of(folder)
        except OSError:  # then it cannot be known
            self._inode = None
            return
        if self._inode is None:
            raise MissingCheckpointError(f"there is no checkpoint {folder}")

    def __enter__(self) -> DeletionGuard:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, IntegrityError | FileAccessError):
            self.check(error)

    def check(self, cause: BaseException | None = None) -> None:
        """Raises MissingCheckpointError where the folder is not the same any more, as far as can be seen."""
        try:
            gone = self._inode is not None and self._inode != _inode_of(self._folder)
        except OSError:
            return
        if gone:
            raise MissingCheckpointError(f"{self._folder} was deleted while it was being read") from cause


def _inode_of(folder: Path) -> int | None:
    """By listing the parent, which a network file system does afresh; None where no folder has this name."""
    absolute = Path(os.path.abspath(folder))
    try:
        with os.scandir(absolute.parent) as entries:
            return next((entry.inode() for entry in entries if entry.name == absolute.name), None)
    except (FileNotFoundError, NotADirectoryError):
        return None


def open_regular(path: Path) -> BufferedReader:
    """Open for reading what must be a regular file: no link is followed, no pipe is waited for.

    Raises OSError, and IntegrityError for a special file.
    """
    with ExitStack() as on_failure:
        file = on_failure.enter_context(open(path, "rb", opener=_without_following))
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise IntegrityError(f"{path.name}: {NO_FILE}")
        on_failure.pop_all()
    return file


def _without_following(name: str, flags: int) -> int:
    return os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
