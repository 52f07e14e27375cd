"""What a rank writes to the console and to its log file."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import Command, composed

from dcp_runner.common import logs
from dcp_runner.common.errors import FileAccessError

pytestmark = pytest.mark.timeout(90)


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> Iterator[logging.Logger]:
    """The root logger without handlers, as it was before afterwards."""
    logger = logging.getLogger()
    monkeypatch.setattr(logger, "handlers", [])
    level, shown = logger.level, warnings.showwarning
    yield logger
    for handler in logger.handlers:
        handler.close()
    logger.setLevel(level)
    logging.captureWarnings(False)
    warnings.showwarning = shown


def test_a_second_setup_replaces_the_first(root: logging.Logger, tmp_path: Path) -> None:
    for name in ("first", "second"):
        logs.setup(1, tmp_path / name)
    logging.getLogger("x").info("a message")
    assert (tmp_path / "first").read_text() == "" and "a message" in (tmp_path / "second").read_text()


@pytest.mark.parametrize(("rank", "kept"), [(0, True), (1, False)])
def test_foreign_handlers_lose_the_console_and_rank_0_keeps_their_files(
    root: logging.Logger, tmp_path: Path, rank: int, kept: bool
) -> None:
    console, file = logging.StreamHandler(sys.stderr), logging.FileHandler(tmp_path / "foreign")
    for handler in (console, file):
        root.addHandler(handler)
    logs.setup(rank)
    assert console not in root.handlers and (file in root.handlers) is kept
    file.close()


def test_a_message_that_cannot_be_written_is_an_error(root: logging.Logger, tmp_path: Path) -> None:
    (tmp_path / "log").symlink_to("/dev/full")
    logs.setup(1, tmp_path / "log")
    with pytest.raises(FileAccessError, match="log: cannot be written: No space left on device"):
        logging.getLogger("x").info("a message")
    (handler,) = (handler for handler in root.handlers if isinstance(handler, logging.FileHandler))
    with open(os.devnull, "wb") as nothing:  # else closing it fails too: the message is still in its buffer
        os.dup2(nothing.fileno(), handler.stream.fileno())


def composed_run(folder: Path, ranks: int) -> Command:
    even = ("parallel=ddp", f"parallel.dp={ranks}", f"data.batch_size={4 * ranks}")
    return Command(folder, composed("chatter", *even)).start()


@pytest.mark.parametrize("ranks", [1, 3])
def test_the_console_does_not_depend_on_the_number_of_ranks(tmp_path: Path, ranks: int) -> None:
    made = composed_run(tmp_path, ranks)
    assert made.wait() == 0, made.err
    assert made.out.splitlines()[1:] == ["one message", "printed", "written"]
    warned = [line for line in made.err.splitlines() if "one warning" in line]
    tags = ["WARNING: one warning", *(f"[rank {rank}" for rank in range(1, ranks))]
    assert sorted(line.split("@")[0] for line in warned) == tags
    assert made.err.count("UserWarning: from python") == 1
    for rank in range(ranks):
        log = (tmp_path / f"outputs/run/logs/rank-0000{rank}.log").read_text()
        assert all(text in log for text in ("one message", "one warning", "from python"))
        assert ("printed" in log) == ("written" in log) == (rank > 0)
