"""A save: the ranks walk through the phases together, and the checkpoint exists when the last one is agreed.

    1. plan      (rank 0) make the staging folder, let files be added to it;
                 (all) settle what the first holder decides, take the states apart
    2. stage     (all) digest every tensor
    3. verify    (all) compare the holders of each copy
    4. write     (writers) write and flush their parts, (all) tell the records of their files
    5. manifest  (rank 0) write the manifest
    6. commit    (rank 0) rename, if no other rank has given up waiting for it

If a phase fails, the first living rank takes the staging folder away, so that nobody who wakes up later can commit it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dcp_runner.checkpoint.bind import BoundComponent
from dcp_runner.checkpoint.digest import hash_bytes, hash_file
from dcp_runner.checkpoint.errors import CheckpointError, UnsupportedStateError
from dcp_runner.checkpoint.files.access import open_regular
from dcp_runner.checkpoint.files.manifest import CheckpointManifest, FileRecord
from dcp_runner.checkpoint.files.storage import MANIFEST, Storage, flush, listing
from dcp_runner.checkpoint.saving.ddp_buffers import sync_ddp_buffers
from dcp_runner.checkpoint.saving.prepare import digest, prepare_components, stage
from dcp_runner.checkpoint.saving.records import Stopwatch, _manifest
from dcp_runner.checkpoint.saving.verify_holders import verify
from dcp_runner.checkpoint.saving.write import _write, _write_indexes
from dcp_runner.checkpoint.state.flatten import FlatState
from dcp_runner.checkpoint.state.treespec import Json
from dcp_runner.checkpoint.sync.comm import Comm
from dcp_runner.checkpoint.topology import Topology

AddFiles = Callable[[Path], object]
"""Called on rank 0 with the folder that becomes the checkpoint; whatever files it writes there become part of it."""


def save(
    bound: Sequence[BoundComponent],
    topology: Topology,
    comm: Comm,
    storage: Storage,
    *,
    step: int,
    attempt: str,
    metrics: Mapping[str, float],
    config: str,
    origin: Mapping[str, Json],
    add_files: AddFiles | None = None,
) -> Path:
    """Save all components; the path of the committed checkpoint, on every rank. Raises CheckpointError on all
    living ranks.
    """
    staging, watch = storage.staging(step), Stopwatch()
    added: dict[str, FileRecord] = {}

    def begin() -> int:
        _begin(storage, step)
        if add_files is not None:
            added.update(_add_files(add_files, staging))
        return step

    try:
        first = comm.on_rank_0("plan", begin)
        sync_ddp_buffers(bound, comm)
        staged = stage(bound, comm.agree("plan", lambda: _plan(bound, step, first, metrics)), comm)
        watch.lap("plan")
        comm.agree("stage", lambda: digest(staged))
        watch.lap("stage")
        verify(staged, comm)
        watch.lap("verify")
        records = comm.agree("write", lambda: _write(staged, comm.rank, storage, staging))
        gathered = comm.exchange("write", records)
        watch.lap("write")

        def write_manifest() -> None:
            manifest = _manifest(
                [one.bound for one in staged], topology, gathered, watch, step, attempt, metrics, config, origin
            )
            files = dict(manifest.files) | _write_indexes(staged, gathered, storage, staging) | added
            manifest = CheckpointManifest(**{**manifest.__dict__, "files": files})
            storage.write(staging / MANIFEST, [manifest.render(hash_bytes)])

        comm.agree("manifest", lambda: write_manifest() if comm.rank == 0 else None)

        def commit() -> None:
            comm.acquire_commit_permit()
            storage.commit(step)

        comm.agree("commit", lambda: commit() if comm.rank == 0 else None)
        return storage.path(step)
    except CheckpointError as error:
        if comm.rank in (0, min(error.alive)):  # rank 0 too, because it makes the folder, and may do so late
            with contextlib.suppress(OSError):  # the failure is what matters; the next start sweeps
                storage.discard(staging)
        if error.phase != "commit":
            raise
        kept = f"\n  {storage.path(step)} stands there and is whole, or only this save is lost"
        raise CheckpointError(error.phase, error.failures, error.alive, kept) from error


def _begin(storage: Storage, step: int) -> None:
    if type(step) is not int or step < 0:
        raise ValueError(f"a step is a whole number from 0 on; found {step!r}")
    storage.begin(step)


def _add_files(add_files: AddFiles, staging: Path) -> dict[str, FileRecord]:
    """Let files be written into the staging folder, while it is empty; ours never overwrite one. Their records.

    Raises UnsupportedStateError for links and special files.
    """
    add_files(staging)
    sizes = listing(staging)
    special = [name for name, size in sizes.items() if size is None]
    if special:
        raise UnsupportedStateError(f"add_files: a checkpoint holds regular files only; found {', '.join(special)}")
    records = {}
    for name, size in sizes.items():
        flush(staging, name)
        with open_regular(staging / name) as file:
            records[name] = FileRecord(size or 0, hash_file(file))
    return records


def _plan(bound: Sequence[BoundComponent], step: int, first: int, metrics: Mapping[str, float]) -> list[FlatState]:
    if step != first:
        raise ValueError(f"this rank saves step {step}, and rank 0 saves step {first}")
    odd = {name: value for name, value in metrics.items() if not (isinstance(name, str) and _is_number(value))}
    if odd:
        raise TypeError(f"metrics are numbers by name; found {odd}")
    return prepare_components(bound)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) or getattr(value, "shape", None) == ()
