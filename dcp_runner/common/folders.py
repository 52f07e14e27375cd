"""Why a folder cannot be made or written, found out before anything depends on it."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryFile


def obstacle(folder: Path) -> str | None:
    """Why a folder, which need not exist, cannot exist, in words for people; None: it can. Makes nothing."""
    for path in (folder, *folder.parents):
        try:
            path.stat()
        except (FileNotFoundError, NotADirectoryError):
            if path.is_symlink():
                return f"{path} is a broken link"
            continue
        except OSError as error:  # too long a name, a circle of links, no permission to look
            return f"{path}: {error.strerror}"
        return None if path.is_dir() else f"{path} is not a folder"
    return None


def unwritable(folder: Path) -> str | None:
    """Why a folder cannot be made, or nothing can be written to it; None: it can. Tried with a nameless file, in the
    folder or in the nearest existing one above it.
    """
    if (why := obstacle(folder)) is not None:
        return why
    existing = next(path for path in (folder, *folder.parents) if path.is_dir())
    try:
        with TemporaryFile(dir=existing) as file:
            file.write(b"anything")
    except OSError as error:
        return f"{existing}: {error.strerror}"
    return None
