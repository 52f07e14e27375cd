"""Where the messages of a rank go: all into its own log file; to the console only what a person needs once.

Standard output has the messages of rank 0 only, so its length does not depend on the number of ranks. Warnings go to
standard error, those of the other ranks with a tag that names the rank.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from pathlib import Path

from dcp_runner.common.files import unwritable, writing

FILE_ONLY = {"file_only": True}
"""`extra` of a message that the console shows in some other way."""
_FILE_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_OURS = "dcp_runner"


def setup(rank: int, log_file: Path | None = None) -> None:
    """Configure logging of this process as rank `rank`; a second call replaces what the first did.

    Foreign handlers that write to the console are removed too; those that write to files stay on rank 0. Raises
    FileAccessError where the log file cannot be written, as every later message does.
    """
    root = logging.getLogger()
    for handler in list(root.handlers):
        if handler.get_name() == _OURS or _writes_to_console(handler) or rank:
            root.removeHandler(handler)
            if handler.get_name() == _OURS:
                handler.close()
    root.setLevel(logging.INFO)
    _add(_warnings(rank))
    if rank == 0:
        _add(_messages())
    logging.captureWarnings(True)
    if log_file is not None:
        _add(_everything(log_file))


def divert_stdout(log_file: Path) -> None:
    """Send all that this process prints to its log file, C and C++ libraries included. Raises FileAccessError."""
    sys.stdout.flush()
    with writing(log_file), log_file.open("ab") as file:
        os.dup2(file.fileno(), 1)


def _add(handler: logging.Handler) -> None:
    handler.set_name(_OURS)
    logging.getLogger().addHandler(handler)


def _writes_to_console(handler: logging.Handler) -> bool:
    return isinstance(handler, logging.StreamHandler) and handler.stream in (sys.stdout, sys.stderr)


def _everything(log_file: Path) -> logging.Handler:
    with writing(log_file):
        handler = _LogFile(log_file, encoding="utf-8")
    handler.setFormatter(logging.Formatter(_FILE_FORMAT))
    return handler


class _LogFile(logging.FileHandler):
    """A message that cannot be written is an error of the program, which `logging` would print and ignore."""

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            raise unwritable(self.baseFilename, error) from error
        super().handleError(record)


class _Terminal(logging.Handler):
    """Writes through rich, so that a progress bar stays below the messages."""

    def emit(self, record: logging.LogRecord) -> None:
        from rich import get_console

        get_console().print(self.format(record), markup=False, highlight=False, soft_wrap=True)


def _messages() -> logging.Handler:
    handler = _Terminal() if sys.stdout.isatty() else logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.addFilter(lambda record: record.levelno < logging.WARNING)
    return handler


def _warnings(rank: int) -> logging.Handler:
    """Python's own warnings are usually the same on every rank, so the console has those of rank 0 only."""
    tag = f"[rank {rank}@{socket.gethostname()}] " if rank else ""
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.WARNING)
    handler.setFormatter(logging.Formatter(f"{tag}%(levelname)s: %(message)s"))
    handler.addFilter(lambda record: not getattr(record, "file_only", False))
    if rank:
        handler.addFilter(lambda record: record.name != "py.warnings")
    return handler
