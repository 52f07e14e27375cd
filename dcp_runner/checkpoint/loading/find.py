"""How the ranks find a checkpoint together, and what they say where it cannot be read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dcp_runner.checkpoint.errors import CheckpointError
from dcp_runner.checkpoint.files.access import DeletionGuard
from dcp_runner.checkpoint.files.catalog import advice, resolve_checkpoint
from dcp_runner.checkpoint.files.integrity import check_files, parse_manifest, valid_checkpoint
from dcp_runner.checkpoint.files.manifest import CheckpointManifest
from dcp_runner.checkpoint.files.storage import Storage
from dcp_runner.checkpoint.loading.request import LoadRequest
from dcp_runner.checkpoint.sync.comm import Comm


@contextmanager
def found_checkpoint(
    comm: Comm, storage: Storage, request: LoadRequest
) -> Iterator[tuple[Path, CheckpointManifest, Sequence[str]]]:
    """The requested checkpoint: its folder, its manifest, and the paths in it that the manifest does not list.

    Raises CheckpointError; where the checkpoint is damaged, as may be found out inside the block, the text names the
    next valid one.
    """
    guards: list[DeletionGuard] = []
    folder: Path | None = None

    def find() -> list[Any]:
        found = resolve_checkpoint(storage, request.which, request.best_by)
        guards.append(DeletionGuard(found))
        valid = valid_checkpoint(found)
        return [str(found), valid.data.decode(), valid.unlisted]

    try:
        with _unless_deleted(comm, "find", guards):
            name, text, unlisted = comm.on_rank_0("find", find)
            folder = Path(name)
            yield folder, parse_manifest(text.encode()), unlisted
    except CheckpointError as error:
        if error.types != {"IntegrityError"}:
            raise
        instead = comm.on_rank_0("find", lambda: advice(storage, request.which, request.best_by, folder))
        raise CheckpointError(error.phase, error.failures, error.alive, instead) from error


def verify_checkpoint(comm: Comm, folder: Path) -> CheckpointManifest:
    """Compare every file of a checkpoint with its digest, divided among the ranks; a file that is not listed is an
    error too. Raises CheckpointError.
    """
    guards: list[DeletionGuard] = []

    def find() -> list[Any]:
        guards.append(DeletionGuard(folder))
        valid = valid_checkpoint(folder)
        return [valid.data.decode(), sorted([*valid.manifest.files, *valid.unlisted])]

    with _unless_deleted(comm, "verify", guards):
        text, names = comm.on_rank_0("verify", find)
        manifest = parse_manifest(text.encode())
        own = names[comm.rank :: comm.world_size]
        comm.agree("verify", lambda: check_files(folder, manifest, own))
        return manifest


@contextmanager
def _unless_deleted(comm: Comm, phase: str, guards: Sequence[DeletionGuard]) -> Iterator[None]:
    """Where files cannot be read on any rank, ask rank 0, which holds the guards, whether they have been deleted.

    Raises CheckpointError, from a MissingCheckpointError where they have.
    """

    def check() -> None:
        for guard in guards:
            guard.check()

    try:
        yield
    except CheckpointError as error:
        if error.types <= {"IntegrityError", "FileAccessError"}:
            comm.on_rank_0(phase, check)
        raise
