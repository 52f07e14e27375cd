"""How a start begins: whose folders these are, what it resumes from, whether anything is left to train. What is asked
and loaded comes first, and writes nothing; a start that is refused, or has nothing to train, leaves all as it was.
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
from dcp_runner.run.identity import identify, remember
from dcp_runner.run.origin import ResumeChoice, choose
from dcp_runner.run.resume import ResumeRequest, resume, retire
from dcp_runner.train.progress import Progress

log = logging.getLogger("dcp_runner.train")


@dataclass(frozen=True)
class StartState:
    """What this start has loaded (None: nothing), and whether there is anything to train."""

    loaded: LoadReport | None
    trains: bool


def begin(
    wish: ResumeRequest, run: RunContext, coordinator: CheckpointCoordinator, progress: Progress, max_steps: int
) -> StartState:
    """Load what the wish means, claim the folder of the checkpoints, and retire those above it. Called by all ranks.

    1. all ranks see the same folder, and it belongs to this run
    2. choose what to load
    3. claim the folder, where steps seem to be left
    4. load
    5. end here if none is left; else retire what lies above

    Raises ResumeError or CheckpointError for what cannot be.
    """
    root = coordinator.storage.root
    identity_for = partial(identify, run, root)
    coordinator.check_visible()
    coordinator.comm.on_rank_0("claim", lambda: asdict(identity_for(owner_of(root).identity)))
    choice = _chosen(wish, run, coordinator)
    if choice.goes_on:
        log.info("GOES ON from its newest checkpoint: %s (resume_skip, resume_rng not repeated)", choice.goes_on)
        wish = ResumeRequest("auto")
    if choice.step < max_steps:
        coordinator.claim(identity_for)
    loaded, damaged = resume(replace(wish, what=choice.what), coordinator)
    if progress.step >= max_steps:
        at = f"{loaded.path} is at step {loaded.step} already" if loaded else "the run is new"
        log.info("NOTHING TO TRAIN: %s, and trainer.max_steps=%d; give a larger one to go on", at, max_steps)
        return StartState(loaded, trains=False)
    identity = coordinator.claim(identity_for)  # at last, where the newest checkpoint was damaged after all
    coordinator.comm.on_rank_0("claim", lambda: remember(run.run_dir, identity))
    if loaded:
        retire(loaded.step, damaged, coordinator)
    coordinator.origin = _origin(identity.run, run.job, choice, loaded)
    return StartState(loaded, trains=True)


def _chosen(wish: ResumeRequest, run: RunContext, coordinator: CheckpointCoordinator) -> ResumeChoice:
    job = run.job if run.again else ""
    plain: dict[str, Any] = coordinator.comm.on_rank_0("find", lambda: choose(wish.what, job, coordinator.storage))
    return ResumeChoice(**plain)


def _origin(id: str, job: str, choice: ResumeChoice, loaded: LoadReport | None) -> dict[str, Any]:
    """What the manifests of this start say of the run; a beginning is handed on from one to the next."""
    earlier = loaded.manifest.origin.get("beginning") if loaded else None
    told = {"run": id, "job": job, "beginning": choice.beginning or earlier}
    return {key: value for key, value in told.items() if value}
