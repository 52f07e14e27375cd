"""A run folder that is full, gone, read-only or not what it should be: one line with the path and the cause, from
whichever rank, and the last committed checkpoint stays.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commands import Command, _compose

from dcp_runner import run_experiment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A real disk of 4 MB, where the run folders will be."""
    folder = tmp_path / "outputs"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], check=True)
    yield folder
    while folder.is_mount():
        subprocess.run(["umount", str(folder)], check=True)


def training(folder: Path, *overrides: str, ranks: int = 1, happens: str = "") -> Command:
    """The tiny run with real training, in `outputs/run`."""
    line = ["debug=tiny", "trainer.device=cpu", "trainer.eval_every=null", "checkpoint.timeout_s=20", *overrides]
    line += ["parallel=ddp", f"parallel.dp={ranks}"] if ranks > 1 else []
    if happens:
        line.append(
            f"+callbacks.happens={{_target_: happenings.Happens, what: {happens}, step: 7, disk: {folder}/outputs}}"
        )
    cfg = _compose(tuple(line))
    return Command(folder, lambda: run_experiment(cfg)).start()


def failed(made: Command, *words: str) -> None:
    """Exit code 1, and the last lines have these words; nothing needs a traceback."""
    assert made.wait() == 1, made.out
    said = made.err[made.err.rindex("FAILED: ") :]
    assert all(word in said for word in words), made.err
    assert "Traceback" not in made.err and len(said.splitlines()) <= 3, made.err


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("checkpoints/checkpoint-*"))


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_full_disk_where_only_lines_are_written(ranks: int, disk: Path, tmp_path: Path) -> None:
    """A line fails as soon as the page that it begins has no room."""
    lines = ("checkpoint.every_steps=190", "trainer.max_steps=200", "logger.every_steps=1000")
    made = training(tmp_path, *lines, ranks=ranks, happens="fill")
    failed(made, f"{disk}/run/metrics.jsonl: cannot be written: No space left on device (ENOSPC)")


@pytest.mark.parametrize(
    ("happens", "ranks", "words"),
    [
        ("fill", 2, ("checkpoint phase 'write' failed", "No space left on device (ENOSPC)", "rank 1 on")),
        ("protect", 2, ("/checkpoints", "Read-only file system")),
        ("move", 1, ("/run/checkpoints", "was removed, moved or replaced")),
        ("move", 2, ("/run/checkpoints", "was removed, moved or replaced")),
        ("remove", 2, ("/run/checkpoints", "was removed, moved or replaced")),
    ],
)
def test_the_next_save_says_what_has_happened_to_the_folder(
    happens: str, ranks: int, words: tuple[str, ...], disk: Path, tmp_path: Path
) -> None:
    made = training(tmp_path, "checkpoint.every_steps=5", ranks=ranks, happens=happens)
    failed(made, *words)
    if happens != "remove":
        assert checkpoints(disk / ("moved" if happens == "move" else "run")) == ["checkpoint-5"]


def folder_at(name: str) -> Callable[[Path], None]:
    return lambda run: (run / name).mkdir(parents=True)


def test_a_full_disk_and_a_tracker(disk: Path, tmp_path: Path) -> None:
    made = training(tmp_path, "logger=tensorboard", "trainer.max_steps=200", happens="fill")
    failed(made, f"{disk}/run/", "cannot be written: No space left on device (ENOSPC)")


def file_at(name: str) -> Callable[[Path], None]:
    def make(run: Path) -> None:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("a file")

    return make


def dead_link_at(name: str) -> Callable[[Path], None]:
    def make(run: Path) -> None:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).symlink_to("/nowhere/at/all")

    return make


@pytest.mark.parametrize(
    ("make", "ranks", "words"),
    [
        (folder_at("logs/rank-00001.log"), 2, ("logs/rank-00001.log: cannot be written: Is a directory",)),
        (dead_link_at("logs/rank-00000.log"), 1, ("logs/rank-00000.log: cannot be written: No such file",)),
        (folder_at("metrics.jsonl"), 1, ("metrics.jsonl: cannot be written: Is a directory",)),
        (file_at("checkpoints"), 2, ("run/checkpoints",)),
        (dead_link_at("checkpoints"), 1, ("run/checkpoints", "broken link")),
    ],
)
def test_something_else_stands_there_at_the_start(
    make: Callable[[Path], None], ranks: int, words: tuple[str, ...], tmp_path: Path
) -> None:
    make(tmp_path / "outputs" / "run")
    failed(training(tmp_path, ranks=ranks), *words)


@pytest.mark.parametrize("ranks", [1, 2])
def test_there_is_nothing_to_resume(ranks: int, tmp_path: Path) -> None:
    root = tmp_path / "outputs" / "run" / "checkpoints"
    failed(training(tmp_path, "resume=must", ranks=ranks), f"resume=must, but there is no checkpoint in {root}")


def test_a_config_beside_the_weights(tmp_path: Path) -> None:
    """Written by a callback: before the commit it is part of the checkpoint; after it, it is said and left."""
    card = "+callbacks.card={{_target_: happenings.Card, when: {}}}"
    saved = training(tmp_path, card.format("before"), "checkpoint.every_steps=10", "trainer.max_steps=10", ranks=2)
    assert saved.wait() == 0, saved.err
    more = training(tmp_path, card.format("after"), "checkpoint.every_steps=10", "trainer.max_steps=20", ranks=2)
    assert more.wait() == 0 and "RESUMED step=10" in more.out and "not listed" not in more.err, more.err
    again = training(tmp_path, card.format("fails"), "checkpoint.every_steps=10", "trainer.max_steps=30", ranks=2)
    failed(again, "KeyError: 'no such model' (in add_files of the callback 'card')", "rank 0 on")
    assert "RESUMED step=20" in again.out
    assert again.err.count("checkpoint-20: not listed in its manifest, and so not read: config.json") == 1
    assert checkpoints(tmp_path / "outputs" / "run") == ["checkpoint-10", "checkpoint-20"]
