"""What to continue from. An explicit wish is fulfilled or an error; only `auto` and `must` choose, and they say
what they passed over.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dcp_runner.checkpoint.coordinator import CheckpointCoordinator
from dcp_runner.checkpoint.errors import CheckpointError
from dcp_runner.checkpoint.loading import LoadReport
from dcp_runner.checkpoint.storage import MANIFEST

log = logging.getLogger("dcp_runner.train")


class ResumeError(RuntimeError):
    """The wish in `resume` cannot be fulfilled; said the same on every rank."""


@dataclass(frozen=True)
class Wish:
    """`resume` and its siblings."""

    what: int | str
    skip: Sequence[str] = ()
    fresh: Sequence[str] = ()


def resume(wish: Wish, coordinator: CheckpointCoordinator) -> LoadReport | None:
    """Load what the wish means; None where the run starts from nothing. Writes nothing.

    Raises ResumeError where `never` finds checkpoints or `must` finds none, and CheckpointError where a load fails.
    """
    steps = coordinator.steps() if wish.what in ("auto", "never", "must") else []
    if wish.what == "never":
        if steps:
            raise ResumeError(
                f"resume=never, but {coordinator.storage.root} has checkpoints {steps}; "
                "give another name, or resume=auto"
            )
        return None
    if wish.what in ("auto", "must"):
        report = _newest_sound(wish, coordinator, steps)
        if report is None and wish.what == "must":
            raise ResumeError(f"resume=must, but there is no checkpoint in {coordinator.storage.root}")
    else:
        report = coordinator.load(wish.what, skip=wish.skip, fresh=wish.fresh)
    return report


def _newest_sound(wish: Wish, coordinator: CheckpointCoordinator, steps: Sequence[int]) -> LoadReport | None:
    """The newest checkpoint whose every byte is as written. A damaged one is passed over, loudly; any other error
    stands.
    """
    damaged: CheckpointError | None = None
    for step in reversed(steps):
        try:
            return coordinator.load(step, skip=wish.skip, fresh=wish.fresh)
        except CheckpointError as error:
            if error.types != {"IntegrityError"}:
                raise
            log.warning("SKIPPED checkpoint-%d, which is damaged: %s", step, error)
            damaged = error
    if damaged is not None:
        raise ResumeError(
            f"every checkpoint in {coordinator.storage.root} is damaged; resume=never starts anew in another folder"
        ) from damaged
    return None


def checkpoint_in(folder: Path) -> Path:
    """The checkpoint that a path means: itself, or the latest one of a run folder (one process)."""
    from dcp_runner.checkpoint.reading import find
    from dcp_runner.checkpoint.storage import Storage

    if (folder / MANIFEST).is_file():
        return folder
    root = folder / "checkpoints" if (folder / "checkpoints").is_dir() else folder
    if not root.is_dir():
        raise FileNotFoundError(
            f"resume={folder}: no such folder; "
            "expected a run folder, a checkpoint-N, a step, latest, best, auto, must or never"
        )
    return find(Storage(root), "latest", "", "min")
