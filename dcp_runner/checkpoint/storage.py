"""The folder of the checkpoints on a file system: staging, commit by rename, retiring. Nobody else touches paths.

    <root>/.staging-<attempt>-checkpoint-500/    being written
    <root>/checkpoint-500/                       complete: the rename is the commit
    <root>/retired-<attempt>-checkpoint-700/     left behind by going back to an earlier step
    <root>/latest -> checkpoint-500              for people; never read
    <root>/.owner                                the attempt that may commit, where one has claimed that

Methods that ask what exists, or that rename or remove, are called on one rank (see coordinator); `write` on all.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from dcp_runner.checkpoint.errors import SupersededError
from dcp_runner.checkpoint.files import writing
from dcp_runner.checkpoint.links import point

MANIFEST = "checkpoint_manifest.json"
IGNORED = (".nfs",)


class Storage:
    """Checkpoints below one root folder, which is made on first use."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._claimed: str | None = None

    def claim(self, attempt: str) -> None:
        """From now on an earlier claimant commits nothing, as one that goes on beyond a network that was cut."""
        beside = self.root / f".owner-{attempt}"
        beside.write_text(attempt, encoding="utf-8")
        os.replace(beside, self.root / ".owner")
        self._claimed = attempt

    def _check_claim(self) -> None:
        """Raises SupersededError where somebody else has claimed the folder since."""
        if self._claimed is not None:
            owner = (self.root / ".owner").read_text(encoding="utf-8")
            if owner != self._claimed:
                raise SupersededError(
                    f"attempt {owner} has taken {self.root} over from attempt {self._claimed}, which saves nothing more"
                )

    def path(self, step: int) -> Path:
        return self.root / f"checkpoint-{step}"

    def staging(self, step: int, attempt: str) -> Path:
        return self.root / f".staging-{attempt}-checkpoint-{step}"

    def steps(self) -> list[int]:
        """Steps of the folders named as committed checkpoints, ascending."""
        try:
            with os.scandir(self.root) as entries:
                matches = [re.fullmatch(r"checkpoint-(\d+)", entry.name) for entry in entries if entry.is_dir()]
        except FileNotFoundError:
            return []
        return sorted(int(match[1]) for match in matches if match)

    def leave_mark(self) -> str:
        """Make the root and a file in it, for the other ranks to see; its name."""
        make_folder(self.root)
        flush_way(self.root)
        mark = f".mark-{os.getpid()}-{os.urandom(4).hex()}"
        (self.root / mark).touch()
        return mark

    def see_mark(self, mark: str) -> None:
        """Raises OSError where this rank does not see rank 0's file, or may not write beside it."""
        if not (self.root / mark).exists():
            raise FileNotFoundError(
                f"{self.root} is not the folder that rank 0 sees: it is on a disk of this node alone; "
                "set checkpoint.root or hydra.run.dir to a file system that all nodes share"
            )
        if not os.access(self.root, os.W_OK):
            raise PermissionError(f"{self.root} cannot be written by this rank")

    def begin(self, step: int, attempt: str) -> None:
        """Make the staging folder. Raises FileExistsError where the step is committed already, SupersededError where
        a later claim stands.
        """
        self._check_claim()
        if self.path(step).exists():
            raise FileExistsError(
                f"{self.path(step)} is a committed checkpoint, and committed checkpoints are never written to"
            )
        make_folder(self.root)
        self.discard(self.staging(step, attempt))
        self.staging(step, attempt).mkdir()

    def write(self, path: Path, buffers: Iterable[bytes | memoryview]) -> int:
        """Write a new file and flush it to the disk, its folder too. Gives its size in bytes.

        Makes folders inside the staging folder, but never that itself: where it was discarded, a late writer must fail.
        """
        with writing(path):
            if path.parent.parent != self.root:
                path.parent.mkdir(exist_ok=True)
            with path.open("xb") as file:
                for buffer in buffers:
                    file.write(buffer)
                file.flush()
                os.fsync(file.fileno())
                size = file.tell()
            sync(path.parent)
        return size

    def commit(self, step: int, attempt: str) -> Path:
        """Rename the staging folder to its final name. From here on the checkpoint is complete, whatever happens."""
        sync(self.staging(step, attempt))
        self._check_claim()
        os.rename(self.staging(step, attempt), self.path(step))
        sync(self.root)
        point(self.root / "latest", self.path(step).name, beside=self.root / ".latest")
        return self.path(step)

    def discard(self, folder: Path) -> None:
        """Remove a folder: first its name, then what it holds, so that a late writer finds nothing to rename."""
        trash = folder.with_name(f".trash-{uuid.uuid4().hex}-{folder.name.lstrip('.')}")
        if folder.exists():
            os.rename(folder, trash)
            shutil.rmtree(trash, ignore_errors=True)

    def sweep(self) -> None:
        """Remove what earlier attempts left half-written."""
        for leftover in self.root.glob(".staging-*"):
            self.discard(leftover)
        for leftover in self.root.glob(".trash-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        for mark in self.root.glob(".mark-*"):
            mark.unlink(missing_ok=True)

    def retire(self, above: int, attempt: str) -> list[int]:
        """Rename all checkpoints above a step out of the way; gives their steps."""
        retired = [step for step in self.steps() if step > above]
        for step in retired:
            target = self.root / f"retired-{attempt}-checkpoint-{step}"
            number = 1
            while target.exists():
                number += 1
                target = self.root / f"retired-{attempt}.{number}-checkpoint-{step}"
            os.rename(self.path(step), target)
        return retired

    def remove(self, step: int) -> None:
        """Delete a committed checkpoint."""
        self.discard(self.path(step))


def listing(folder: Path) -> dict[str, int | None]:
    """Relative path -> size of every regular file in a checkpoint but its manifest; None for a link or special file,
    which is not followed.

    Raises OSError where a folder in it cannot be read.
    """
    sizes: dict[str, int | None] = {}
    for parent, folders, files in os.walk(folder, onerror=_raise):
        for name in (*folders, *files):
            path = Path(parent, name)
            relative, about = path.relative_to(folder).as_posix(), path.lstat()
            if not stat.S_ISDIR(about.st_mode) and relative != MANIFEST and not name.startswith(IGNORED):
                sizes[relative] = about.st_size if stat.S_ISREG(about.st_mode) else None
    return sizes


def flush_way(folder: Path) -> None:
    """Flush the folders that lead to this one on its file system, whoever made them, as far as this user may."""
    for above in folder.resolve().parents:
        with suppress(OSError):  # their owner has flushed them, as a rule long ago
            sync(above)
        if above.is_mount():
            break


def flush(folder: Path, name: str) -> None:
    """Bring a file that others have written onto the disk, with the folders that lead to it. Raises FileAccessError."""
    with writing(folder / name):
        sync(folder / name)
        for parent in Path(name).parents:
            sync(folder / parent)


def _raise(error: OSError) -> None:
    raise error


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, each flushed into the one that holds it: a power failure takes none away.

    Raises FileAccessError.
    """
    if not folder.is_dir():
        make_folder(folder.parent)
        with writing(folder):
            folder.mkdir(exist_ok=True)
            sync(folder.parent)


def sync(path: Path) -> None:
    """Flush a folder's entries, or a file's bytes, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
