"""What an error of the file system means, in one place.

A file of a checkpoint that is not there, or is no regular file, is damage. Every other error (a disk that fails, a
stale handle, a missing permission, too many open files) says nothing about the bytes on the disk: it is reported with
its cause, and no checkpoint is passed over or retired for it.
"""

from __future__ import annotations

import errno
import os
import resource
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import BufferedReader
from pathlib import Path

from dcp_runner.checkpoint.errors import FileAccessError, IntegrityError

NO_FILE = "is a link or a special file"
_DAMAGE = {
    errno.ENOENT: "is missing",
    errno.ENOTDIR: "is missing",
    errno.EISDIR: "is a folder",
    errno.ELOOP: NO_FILE,
}
_WORDS = {errno.EEXIST: "another file, a folder or a link to nothing stands there"}


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


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around a write. Raises FileAccessError with the path and the cause."""
    try:
        yield
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path | str, error: OSError) -> FileAccessError:
    return FileAccessError(f"{path}: cannot be written: {cause(error)}")


def cause(error: OSError) -> str:
    """As `Input/output error (EIO)`; for too many open files with the limit."""
    if error.errno is None:
        return str(error)
    text = _WORDS.get(error.errno, error.strerror)
    text = f"{text} ({errno.errorcode.get(error.errno, error.errno)})"
    if error.errno == errno.EMFILE:
        text += f"; this process may hold {resource.getrlimit(resource.RLIMIT_NOFILE)[0]} open (raise it: ulimit -n)"
    return text


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


def is_there(path: Path) -> bool:
    """Whether something stands at this path. Unlike Path.exists, it takes no other error for an answer."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True
