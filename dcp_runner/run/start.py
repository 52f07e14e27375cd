"""How a run starts: which run the folders belong to, what to load, and whether any steps remain.

Everything that may be refused comes first and writes nothing, so a start that is refused, or has nothing to train,
changes nothing.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from dcp_runner.checkpoint.coordinator import CheckpointCoordinator
from dcp_runner.checkpoint.files.ownership import owner_of
from dcp_runner.checkpoint.loading.load import LoadReport
from dcp_runner.common.run_context import RunContext
from dcp_runner.run.identity import resolve_identity, write_identity
from dcp_runner.run.launched_config import for_manifest
from dcp_runner.run.origin import ResumeChoice, choose_source
from dcp_runner.run.resume import ResumeRequest, load_requested, retire_after
from dcp_runner.train.progress import Progress

log = logging.getLogger("dcp_runner.train")


@dataclass(frozen=True)
class StartState:
    """The state in which this start of the run begins to train."""

    loaded: LoadReport | None
    """None: the run starts fresh."""
    needs_training: bool
    """Whether any steps remain."""
    own_step: int | None = None
    """The step that was loaded, if it is a checkpoint of this run itself."""


def start_or_resume(
    request: ResumeRequest, run: RunContext, coordinator: CheckpointCoordinator, progress: Progress, max_steps: int
) -> StartState:
    """Load the requested checkpoint, claim the checkpoint root, and retire the checkpoints above. All ranks call it.

    1. check that all ranks see the same checkpoint root, and that it belongs to this run
    2. choose what to load
    3. claim the root, if steps seem to remain
    4. load
    5. stop here if no steps remain; otherwise retire the checkpoints above

    Raises ResumeError or CheckpointError where any of this is impossible.
    """
    root = coordinator.storage.root
    identity_for = partial(resolve_identity, run, root)
    coordinator.check_visible()
    coordinator.comm.on_rank_0("claim", lambda: asdict(identity_for(owner_of(root).identity)))
    choice = _choose(request, run, coordinator)
    if choice.continues:
        log.info(
            "CONTINUES from its newest checkpoint: %s (resume_skip and resume_rng are not applied again)",
            choice.continues,
        )
        request = ResumeRequest("auto")
    if choice.max_step < max_steps:
        coordinator.claim(identity_for)
    loaded, damaged = load_requested(replace(request, source=choice.source), coordinator)
    if progress.step >= max_steps:
        reached = f"{loaded.path} is already at step {loaded.step}" if loaded else "the run is new"
        log.info("NOTHING TO TRAIN: %s, and trainer.max_steps=%d; increase it to continue", reached, max_steps)
        return StartState(loaded, needs_training=False)
    identity = coordinator.claim(identity_for)  # not claimed yet where the newest checkpoint proved to be damaged
    coordinator.comm.on_rank_0("claim", lambda: write_identity(run.run_dir, identity))
    if loaded:
        retire_after(loaded.step, damaged, coordinator)
    coordinator.origin = _origin(identity.run, run, choice, loaded)
    return StartState(loaded, needs_training=True, own_step=_own_step(loaded, coordinator))


def _choose(request: ResumeRequest, run: RunContext, coordinator: CheckpointCoordinator) -> ResumeChoice:
    job = run.job if run.again else ""
    plain: dict[str, Any] = coordinator.comm.on_rank_0(
        "find", lambda: choose_source(request.source, job, coordinator.storage)
    )
    return ResumeChoice(**plain)


def _origin(id: str, run: RunContext, choice: ResumeChoice, loaded: LoadReport | None) -> dict[str, Any]:
    """What the manifests of this start record about the run. The parent is passed on from each to the next."""
    earlier = loaded.manifest.origin.get("beginning") if loaded else None
    launched = for_manifest(run.config)
    record = {"run": id, "job": run.job, "beginning": choice.parent or earlier, "launched": launched}
    return {key: value for key, value in record.items() if value}


def _own_step(loaded: LoadReport | None, coordinator: CheckpointCoordinator) -> int | None:
    if loaded is None:
        return None
    folder, root = loaded.path, coordinator.storage.root
    is_own: bool = coordinator.comm.on_rank_0("find", lambda: folder.resolve().parent.samefile(root))
    return loaded.step if is_own else None
