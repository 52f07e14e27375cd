"""The checkpoint root on a file system: all its paths, the commit by rename, retiring and deleting.

    <root>/.staging-<claim>-checkpoint-500/      the temporary folder of a save that has not committed
    <root>/checkpoint-500/                       complete: the rename is the commit
    <root>/retired-<attempt>-checkpoint-700/     set aside when a run went back to an earlier step
    <root>/latest -> checkpoint-500              for people; never read
    <root>/.owner-<claim>/                       which process may write here, see ownership.py

Methods that list, rename or remove are called on one rank (see coordinator.py); `write` on all. Every method that
writes needs a claim, and raises SupersededError where there is a newer one.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dcp_runner.checkpoint.errors import SupersededError
from dcp_runner.checkpoint.files import ownership
from dcp_runner.checkpoint.files.ownership import OWNER, Identify, Owner
from dcp_runner.common.files import sync, writing
from dcp_runner.common.links import point

MANIFEST = "checkpoint_manifest.json"
IGNORED = (".nfs",)


class Storage:
    """Checkpoints below one root folder, which is made on first use."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.owner: Owner | None = None
        """The claim under which the ranks write; None: they have none."""

    def claim(self, attempt: str, identify: Identify, seen: int) -> Owner:
        """Claim the root, and remove what saves under earlier claims have not finished. See `ownership.claim`. It is in
        force once all ranks have set `owner`.
        """
        owner = ownership.claim(self.root, attempt, identify, seen)
        flush_parents(self.root)
        self._remove_leftovers(owner)
        return owner

    def release(self) -> None:
        """Give up the claim, if there is one, so that another process may claim the root."""
        if self.owner is not None:
            ownership.release(self.root, self.owner)

    def check_claim(self) -> Owner:
        """Our claim. Raises SupersededError where there is a newer one."""
        if self.owner is None:
            raise PermissionError(f"{self.root} has not been claimed: only the process that claims it writes there")
        now = ownership.owner_of(self.root)
        if not now.number:
            raise FileNotFoundError(
                f"{self.root} is no longer the folder that attempt {self.owner.attempt} has claimed: it was "
                "removed, moved or replaced while the run went on; nothing more is saved"
            )
        if now != self.owner:
            raise SupersededError(
                f"{now} has taken over {self.root} from attempt {self.owner.attempt}, which saves nothing more"
            )
        return self.owner

    @contextmanager
    def _claimed(self) -> Iterator[Owner]:
        """Around what writes: a newer claim removes unfinished saves, and then that is the reason of an error."""
        try:
            yield self.check_claim()
        except OSError:
            self.check_claim()
            raise

    def path(self, step: int) -> Path:
        """The folder of a committed checkpoint."""
        return self.root / f"checkpoint-{step}"

    def temporary(self, step: int) -> Path:
        """Where a checkpoint is written before its commit; the claim's number makes it this claim's alone."""
        number = self.owner.number if self.owner else 0
        return self.root / f".staging-{number}-checkpoint-{step}"

    def steps(self) -> list[int]:
        """Steps of the folders named as committed checkpoints, ascending. A link counts, even a broken one: its disk
        may not be mounted.
        """
        try:
            with os.scandir(self.root) as entries:
                names = [entry.name for entry in entries if entry.is_dir() or entry.is_symlink()]
        except FileNotFoundError:
            return []
        matches = [re.fullmatch(r"checkpoint-(0|[1-9][0-9]*)", name) for name in names]
        return sorted(int(match[1]) for match in matches if match)

    def visible_names(self) -> list[str]:
        """What all ranks must see: the committed checkpoints and the claim."""
        owner = ownership.owner_of(self.root)
        return [*(self.path(step).name for step in self.steps()), *([f"{OWNER}{owner.number}"] if owner.number else [])]

    def check_visible(self, names: Iterable[str], writable: bool) -> None:
        """Raises OSError where this rank does not see the names that rank 0 sees, or may not write there."""
        if missing := [name for name in names if not (self.root / name).exists()]:
            raise FileNotFoundError(
                f"{self.root} is not the folder that rank 0 sees ({missing[0]} is missing): it is on a disk of this "
                "node alone; set checkpoint.root or hydra.run.dir to a file system that all nodes share"
            )
        if writable and not os.access(self.root, os.W_OK):
            raise PermissionError(f"{self.root} cannot be written by this rank")

    def make_temporary(self, step: int) -> None:
        """Make the temporary folder. Raises FileExistsError where the step is committed already."""
        with self._claimed():
            if self.path(step).is_dir():
                raise FileExistsError(
                    f"{self.path(step)} is a committed checkpoint, and committed checkpoints are never written to"
                )
            if os.path.lexists(self.path(step)):
                raise FileExistsError(f"{self.path(step)} is a file or a link; a checkpoint cannot be saved there")
            self.discard(self.temporary(step))
            self.temporary(step).mkdir()

    def write(self, path: Path, buffers: Iterable[bytes | memoryview]) -> int:
        """Write a new file and flush it to the disk, its folder too; its size in bytes.

        Makes folders inside the temporary folder, but never that itself: where it was discarded, a late writer must
        fail.
        """
        with self._claimed(), writing(path):
            if path.parent.parent != self.root:
                path.parent.mkdir(exist_ok=True)
            with path.open("xb") as file:
                size = sum(file.write(buffer) for buffer in buffers)
                file.flush()
                os.fsync(file.fileno())
            sync(path.parent)
        return size

    def commit(self, step: int) -> Path:
        """Rename the temporary folder to its final name. From here on the checkpoint is complete, whatever happens."""
        with self._claimed():
            sync(self.temporary(step))
            self.check_claim()
            os.rename(self.temporary(step), self.path(step))
        sync(self.root)
        point(self.root / "latest", self.path(step).name, temporary=self.root / ".latest")
        return self.path(step)

    def discard(self, folder: Path) -> None:
        """Remove a folder: first its name, then its contents, so that a late writer finds nothing to rename."""
        trash = folder.with_name(f".trash-{uuid.uuid4().hex}-{folder.name.lstrip('.')}")
        with suppress(FileNotFoundError):  # there is none, or its owner has just removed it
            os.rename(folder, trash)
            shutil.rmtree(trash, ignore_errors=True)

    def _remove_leftovers(self, owner: Owner) -> None:
        """Remove what saves under earlier claims have not finished, and the claims themselves."""
        for leftover in (*self.root.glob(".staging-*"), *ownership.obsolete(self.root, owner)):
            self.discard(leftover)
        for leftover in self.root.glob(".trash-*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def retire_after(self, last: int) -> list[int]:
        """Rename all checkpoints above a step to `retired-...`; their steps."""
        retired = [step for step in self.steps() if step > last]
        for step in retired:
            with self._claimed() as owner:
                target = self.root / f"retired-{owner.attempt}-checkpoint-{step}"
                number = 1
                while target.exists():
                    number += 1
                    target = self.root / f"retired-{owner.attempt}.{number}-checkpoint-{step}"
                os.rename(self.path(step), target)
        return retired

    def retired(self) -> list[Path]:
        """The checkpoints that were set aside when a run went back to an earlier step."""
        return sorted(self.root.glob("retired-*-checkpoint-*"))

    def remove(self, folder: Path) -> None:
        """Delete a checkpoint, committed or retired."""
        with self._claimed():
            self.discard(folder)


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


def flush_parents(folder: Path) -> None:
    """Flush the folders above this one on its file system, whoever made them, as far as this user may."""
    for above in folder.resolve().parents:
        with suppress(OSError):  # their owner has flushed them, usually long ago
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
