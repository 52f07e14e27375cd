"""A load: nothing is changed before every rank has read and checked everything.

1. find      (rank 0) choose the folder, check the manifest and that all files are there; (all) get the manifest
2. compare   (all) open the files of what is loaded, and list everything that does not fit, without reading tensors
3. read      (all) read and check what is loaded, and each rank its share of the files that no rank reads
4. apply     (all) hand the states to their objects
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dcp_runner.checkpoint.bind import BoundComponent
from dcp_runner.checkpoint.config import Check
from dcp_runner.checkpoint.errors import CheckpointError
from dcp_runner.checkpoint.files.manifest import CheckpointManifest
from dcp_runner.checkpoint.files.opened import OpenedCheckpoint
from dcp_runner.checkpoint.files.storage import Storage
from dcp_runner.checkpoint.loading.compare import compare
from dcp_runner.checkpoint.loading.find import found_checkpoint
from dcp_runner.checkpoint.loading.pending import PendingLoad, selected_copies
from dcp_runner.checkpoint.loading.request import LoadRequest
from dcp_runner.checkpoint.stateful import SupportsReset
from dcp_runner.checkpoint.sync.comm import Comm

log = logging.getLogger("dcp_runner.checkpoint")
SHOWN = 8
"""Names in a message."""


@dataclass(frozen=True)
class ComponentLoadRow:
    """What happened to one component: how it was shared when saved, how it is now, and what was done."""

    component: str
    saved: str
    current: str
    action: str


@dataclass(frozen=True)
class LoadReport:
    """What a load did."""

    path: Path
    manifest: CheckpointManifest
    rows: tuple[ComponentLoadRow, ...]
    accepted: tuple[str, ...] = ()
    """Differences that were accepted: those the objects can handle; with strict=False also missing and unexpected
    entries.
    """

    @property
    def step(self) -> int:
        return self.manifest.step


def load(bound: Sequence[BoundComponent], comm: Comm, storage: Storage, request: LoadRequest) -> LoadReport:
    """Load all components. Raises CheckpointError on all living ranks, before any object is changed unless in phase
    `apply`; for a damaged checkpoint it names the next valid one.
    """
    with found_checkpoint(comm, storage, request) as (folder, manifest, unlisted):
        if unlisted and comm.rank == 0:
            more = f" and {len(unlisted) - SHOWN} more" if len(unlisted) > SHOWN else ""
            names = ", ".join(unlisted[:SHOWN]) + more
            log.warning("%s: not listed in its manifest, and so not read: %s", folder.name, names)
        checkpoint = OpenedCheckpoint(folder, manifest)
        try:
            pending, accepted = comm.agree("compare", lambda: compare(bound, checkpoint, request))
            comm.agree("read", lambda: _read(pending, comm, checkpoint, request.check))
        finally:
            with suppress(OSError):  # after a success all is closed already; after a failure, that is what matters
                checkpoint.close()
    try:
        comm.agree("apply", lambda: _apply(pending, manifest.step, comm.rank))
    except CheckpointError as error:
        mixed = "\n  some objects may hold the saved state and others not: load again before you continue"
        raise CheckpointError(error.phase, error.failures, error.alive, mixed) from error
    rows = tuple(_row(component, manifest) for component in pending)
    return LoadReport(folder, manifest, rows, tuple(accepted))


def _read(pending: Sequence[PendingLoad], comm: Comm, checkpoint: OpenedCheckpoint, check: Check) -> None:
    """Read and check, and close what was opened: a file system may report an error only then."""
    for component in pending:
        component.read(comm.rank / comm.world_size)
    if check is Check.all:
        checkers = _checkers(pending, checkpoint.manifest, comm.world_size)
        checkpoint.check([name for name, rank in checkers.items() if rank == comm.rank])
    checkpoint.close()


def _checkers(pending: Sequence[PendingLoad], manifest: CheckpointManifest, world_size: int) -> dict[str, int]:
    """Which rank makes sure that all of a file is checked: one that reads it anyway, or else one after the other."""
    checkers = {name: number % world_size for number, name in enumerate(sorted(manifest.files))}
    for component in pending:
        if component.source is not None:
            first = {copy.name: copy.holders[0] for copy in component.bound.copies}
            for copy, files in reversed(selected_copies(component.bound, manifest).items()):
                checkers |= dict.fromkeys(files, first[copy])
    return checkers


def _apply(pending: Sequence[PendingLoad], step: int, rank: int) -> None:
    for component in pending:
        stateful = component.bound.stateful
        if component.source is not None:
            stateful.load_state_dict(component.state)
        elif component.action == "fresh" and isinstance(stateful, SupportsReset):
            stateful.reset(step, rank)


def _row(component: PendingLoad, manifest: CheckpointManifest) -> ComponentLoadRow:
    bound = component.bound
    record = manifest.components.get(bound.key)
    saved = record.sharing if record else "-"
    return ComponentLoadRow(bound.key, saved, str(bound.resolved.sharing), component.action)
