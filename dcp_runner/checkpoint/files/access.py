"""What an error of the file system means, in one place.

A file of a checkpoint that is not there, or is no regular file, is damage. Every other error (a disk that fails, a
stale handle, a missing permission, too many open files) says nothing about the bytes on the disk: it is reported with
its cause, and no checkpoint is passed over or retired for it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import BufferedReader
from pathlib import Path

from dcp_runner.checkpoint.errors import IntegrityError
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
