"""Turns file-system errors into messages, and flushes to disk."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dcp_runner.common.errors import FileAccessError

_TEXTS = {errno.EEXIST: "another file, a folder or a broken link is at this path"}


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around a write: an error of the file system becomes a FileAccessError with the path and the cause."""
    try:
        yield
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path | str, error: OSError) -> FileAccessError:
    return FileAccessError(f"{path}: cannot be written: {cause(error)}")


def cause(error: OSError) -> str:
    """As `Input/output error (EIO)`; for too many open files, with the limit and how to raise it."""
    if error.errno is None:
        return str(error)
    text = _TEXTS.get(error.errno, error.strerror)
    text = f"{text} ({errno.errorcode.get(error.errno, error.errno)})"
    if error.errno == errno.EMFILE:
        text += f"; the limit is {resource.getrlimit(resource.RLIMIT_NOFILE)[0]} (raise it with ulimit -n)"
    return text


def is_there(path: Path) -> bool:
    """Whether this path exists. Unlike Path.exists, it raises any other error of the file system."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def sync(path: Path) -> None:
    """Flush a folder's entries, or a file's bytes, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
