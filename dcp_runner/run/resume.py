"""What to continue from. An explicit wish is fulfilled or an error; only `auto` and `must` choose, and they say
what they passed over.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dcp_runner.checkpoint.coordinator import CheckpointCoordinator
from dcp_runner.checkpoint.errors import CheckpointError
from dcp_runner.checkpoint.files.catalog import resolve_checkpoint
from dcp_runner.checkpoint.files.integrity import is_named_as_checkpoint
from dcp_runner.checkpoint.files.storage import MANIFEST, Storage
from dcp_runner.checkpoint.loading.load import LoadReport
from dcp_runner.common.files import is_there
from dcp_runner.train.errors import TrainError

log = logging.getLogger("dcp_runner.train")


class ResumeError(TrainError):
    """The wish in `resume` cannot be fulfilled; said the same on every rank."""


@dataclass(frozen=True)
class ResumeRequest:
    """`resume` and its siblings."""

    what: int | str
    skip: Sequence[str] = ()
    fresh: Sequence[str] = ()


def resume(wish: ResumeRequest, coordinator: CheckpointCoordinator) -> tuple[LoadReport | None, dict[int, str]]:
    """Load what the wish means; None where the run starts from nothing. And the damaged checkpoints that were passed
    over, with what is wrong with them. Writes nothing.

    Raises ResumeError where `never` finds checkpoints or `must` finds none, and CheckpointError where a load fails.
    """
    damaged: dict[int, str] = {}
    steps = coordinator.steps() if wish.what in ("auto", "never", "must") else []
    if wish.what == "never":
        if steps:
            raise ResumeError(
                f"resume=never, but {coordinator.storage.root} has checkpoints {steps}; "
                "give another name, or resume=auto"
            )
        return None, damaged
    if wish.what in ("auto", "must"):
        report, damaged = _newest_sound(wish, coordinator, steps)
        if report is None and wish.what == "must":
            raise ResumeError(f"resume=must, but there is no checkpoint in {coordinator.storage.root}")
    else:
        report = coordinator.load(wish.what, skip=wish.skip, fresh=wish.fresh)
    return report, damaged


def retire(step: int, damaged: Mapping[int, str], coordinator: CheckpointCoordinator) -> None:
    """Rename what lies above the step to `retired-...`, and tell why."""
    retired = coordinator.retire_after(step)
    if abandoned := ", ".join(f"checkpoint-{above}" for above in retired if above not in damaged):
        log.info("RETIRED %s: abandoned, because this run goes on from step %d", abandoned, step)
    for above in retired:
        if above in damaged:
            log.info("RETIRED checkpoint-%d: damaged: %s", above, damaged[above])


def _newest_sound(
    wish: ResumeRequest, coordinator: CheckpointCoordinator, steps: Sequence[int]
) -> tuple[LoadReport | None, dict[int, str]]:
    """The newest checkpoint whose every byte is as written, and those passed over with what is wrong with them. A
    damaged one is passed over with a warning; any other error stands, as that of a file that cannot be read.
    """
    damaged: dict[int, str] = {}
    deleted = False
    for step in reversed(steps):
        try:
            return coordinator.load(step, skip=wish.skip, fresh=wish.fresh), damaged
        except CheckpointError as error:
            if error.types == {"MissingCheckpointError"}:
                log.info("SKIPPED checkpoint-%d, which another process has deleted meanwhile", step)
                deleted = True
                continue
            if error.types != {"IntegrityError"}:
                raise
            log.warning("SKIPPED checkpoint-%d, which is damaged: %s", step, error.reasons)
            damaged[step] = error.reasons
    if deleted:  # by a run that goes on, so there may be newer ones
        return _newest_sound(wish, coordinator, coordinator.steps())
    if damaged:
        raise ResumeError(
            f"every checkpoint in {coordinator.storage.root} is damaged; resume=never starts anew in another folder"
            + "".join(f"\n  checkpoint-{step}: {reason}" for step, reason in damaged.items())
        )
    return None, damaged


def checkpoint_in(folder: Path) -> Path:
    """The checkpoint that a path names: itself, or the latest one of a run folder (one process)."""
    if is_named_as_checkpoint(folder) or is_there(folder / MANIFEST):
        return folder
    root = folder / "checkpoints" if is_there(folder / "checkpoints") else folder
    if not is_there(root):
        raise FileNotFoundError(
            f"resume={folder}: no such folder; "
            "expected a run folder, a checkpoint-N, a step, latest, best, auto, must or never"
        )
    return resolve_checkpoint(Storage(root), "latest")
