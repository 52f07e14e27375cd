"""Loading what a start asks to resume from. An explicit request succeeds or raises an error; only `auto` and `must`
choose a checkpoint themselves, and they report which ones they passed over.
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
from dcp_runner.run.launched_config import checkpoint_root_of
from dcp_runner.train.errors import TrainError

log = logging.getLogger("dcp_runner.train")


class ResumeError(TrainError):
    """The request in `resume` cannot be fulfilled. Raised with the same text on every rank."""


@dataclass(frozen=True)
class ResumeRequest:
    """What to load, as the user asks for it: `resume` and the keys that go with it."""

    source: int | str
    """auto, must, never, latest, best, a step or a path."""
    skip: Sequence[str] = ()
    """Components that are not loaded."""
    fresh: Sequence[str] = ()
    """Components that are reset instead of loaded."""


def load_requested(
    request: ResumeRequest, coordinator: CheckpointCoordinator
) -> tuple[LoadReport | None, dict[int, str]]:
    """Load the requested checkpoint; None if the run starts fresh. Also returns the damaged checkpoints that were
    passed over, by step, with the reason. Writes nothing.

    Raises ResumeError where `never` finds checkpoints or `must` finds none, and CheckpointError where a load fails.
    """
    damaged: dict[int, str] = {}
    root = coordinator.storage.root
    steps = coordinator.steps() if request.source in ("auto", "never", "must") else []
    if request.source == "never":
        if steps:
            raise ResumeError(f"resume=never, but {root} has checkpoints {steps}; give another name=, or resume=auto")
        return None, damaged
    if request.source in ("auto", "must"):
        report, damaged = _load_newest_valid(request, coordinator, steps)
        if report is None and request.source == "must":
            raise ResumeError(f"resume=must, but there is no checkpoint in {root}; resume=auto starts from step 0")
    else:
        report = coordinator.load(request.source, skip=request.skip, fresh=request.fresh)
    return report, damaged


def retire_after(step: int, damaged: Mapping[int, str], coordinator: CheckpointCoordinator) -> None:
    """Rename the checkpoints above this step to `retired-...`, and log why."""
    retired = coordinator.retire_after(step)
    if abandoned := ", ".join(f"checkpoint-{above}" for above in retired if above not in damaged):
        log.info("RETIRED %s: abandoned, because this run continues from step %d", abandoned, step)
    for above in retired:
        if above in damaged:
            log.info("RETIRED checkpoint-%d: damaged: %s", above, damaged[above])


def _load_newest_valid(
    request: ResumeRequest, coordinator: CheckpointCoordinator, steps: Sequence[int]
) -> tuple[LoadReport | None, dict[int, str]]:
    """Load the newest checkpoint whose every byte is as written. Only damage is passed over, with a warning; any other
    error is raised, such as that of a file that cannot be read.
    """
    damaged: dict[int, str] = {}
    deleted = False
    for step in reversed(steps):
        try:
            return coordinator.load(step, skip=request.skip, fresh=request.fresh), damaged
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
        return _load_newest_valid(request, coordinator, coordinator.steps())
    if damaged:
        raise ResumeError(
            f"every checkpoint in {coordinator.storage.root} is damaged; to start fresh, give another folder (name=)"
            + "".join(f"\n  checkpoint-{step}: {reason}" for step, reason in damaged.items())
        )
    return None, damaged


def checkpoint_at(path: Path) -> Path:
    """The checkpoint that a path names: the path itself, or the latest checkpoint of a run folder or checkpoint root.

    Raises FileNotFoundError. Reads from one process, without ranks.
    """
    if is_named_as_checkpoint(path) or is_there(path / MANIFEST):
        return path
    if not is_there(path):
        raise FileNotFoundError(
            f"resume={path}: no such folder; "
            "expected a run folder, a checkpoint-N, a step, latest, best, auto, must or never"
        )
    return resolve_checkpoint(Storage(checkpoint_root_of(path)), "latest")
