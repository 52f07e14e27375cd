"""A save: the ranks walk through the phases together, and the checkpoint exists when the last one is agreed.

    1. plan      (all) check the request; (rank 0) make the temporary folder, let files be added to it;
                 (all) take over what the first holder decides, flatten the states
    2. stage     (all) digest every tensor
    3. verify    (all) compare the holders of each copy
    4. write     (writers) write and flush their parts, (all) exchange the records of their files
    5. manifest  (rank 0) write the manifest
    6. commit    (rank 0) rename, if no other rank has given up waiting for it

If a phase fails, the first living rank removes the temporary folder, so that no rank that wakes up later can commit it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from dcp_runner.checkpoint.bind import BoundComponent
from dcp_runner.checkpoint.digest import hash_bytes, hash_file
from dcp_runner.checkpoint.errors import CheckpointError, UnsupportedStateError
from dcp_runner.checkpoint.files.access import open_regular
from dcp_runner.checkpoint.files.manifest import FileRecord
from dcp_runner.checkpoint.files.storage import MANIFEST, Storage, flush, listing
from dcp_runner.checkpoint.saving.ddp_buffers import sync_ddp_buffers
from dcp_runner.checkpoint.saving.prepare import digest_tensors, flatten_states, plan_parts
from dcp_runner.checkpoint.saving.records import Stopwatch, build_manifest
from dcp_runner.checkpoint.saving.request import AddFiles, SaveRequest
from dcp_runner.checkpoint.saving.verify_holders import verify
from dcp_runner.checkpoint.saving.write import write_indexes, write_parts
from dcp_runner.checkpoint.state.flatten import FlatState
from dcp_runner.checkpoint.sync.comm import Comm
from dcp_runner.checkpoint.topology import Topology


def save(
    bound: Sequence[BoundComponent], topology: Topology, comm: Comm, storage: Storage, request: SaveRequest
) -> Path:
    """Save all components; the path of the committed checkpoint, on every rank. Raises CheckpointError on all
    living ranks.
    """
    try:
        return _save(bound, topology, comm, storage, request)
    except CheckpointError as error:
        if comm.rank in (0, min(error.alive)):  # rank 0 too, because it makes the folder, and may do so late
            with contextlib.suppress(OSError):  # the failure is what matters; the next start removes the folder
                storage.discard(storage.temporary(request.step))
        if error.phase != "commit":
            raise
        unknown = (
            f"\n  The outcome of the commit is unknown: if {storage.path(request.step)} exists, it is complete; "
            "otherwise only this save was lost."
        )
        raise CheckpointError(error.phase, error.failures, error.alive, unknown) from error


def _save(
    bound: Sequence[BoundComponent], topology: Topology, comm: Comm, storage: Storage, request: SaveRequest
) -> Path:
    watch = Stopwatch()
    request, added = comm.agree("plan", lambda: _start(request, comm, storage))
    step, folder = request.step, storage.temporary(request.step)
    steps = comm.exchange("plan", step)
    sync_ddp_buffers(bound, comm)
    prepared = plan_parts(bound, comm.agree("plan", lambda: _flatten(bound, step, steps[0])), comm)
    watch.lap("plan")
    comm.agree("stage", lambda: digest_tensors(prepared))
    watch.lap("stage")
    verify(prepared, comm)
    watch.lap("verify")
    own_records = comm.agree("write", lambda: write_parts(prepared, comm.rank, storage, folder))
    records = comm.exchange("write", own_records)
    watch.lap("write")

    def write_manifest() -> None:
        others = write_indexes(prepared, storage, folder) | added
        manifest = build_manifest(
            [component.bound for component in prepared], topology, request, records, others, watch.laps
        )
        storage.write(folder / MANIFEST, [manifest.render(hash_bytes)])

    comm.agree("manifest", lambda: write_manifest() if comm.rank == 0 else None)

    def commit() -> None:
        comm.acquire_commit_permit()
        storage.commit(step)

    comm.agree("commit", lambda: commit() if comm.rank == 0 else None)
    return storage.path(step)


def _start(request: SaveRequest, comm: Comm, storage: Storage) -> tuple[SaveRequest, dict[str, FileRecord]]:
    """The checked request, and on rank 0 the records of added files."""
    request = request.checked()
    if comm.rank != 0:
        return request, {}
    storage.make_temporary(request.step)
    added = {} if request.add_files is None else _add_files(request.add_files, storage.temporary(request.step))
    return request, added


def _add_files(add_files: AddFiles, folder: Path) -> dict[str, FileRecord]:
    """Let files be written into the temporary folder while it is empty; ours never overwrite one. Their records.

    Raises UnsupportedStateError for links and special files.
    """
    add_files(folder)
    sizes = listing(folder)
    special = [name for name, size in sizes.items() if size is None]
    if special:
        raise UnsupportedStateError(f"add_files: a checkpoint holds regular files only; found {', '.join(special)}")
    records = {}
    for name, size in sizes.items():
        flush(folder, name)
        with open_regular(folder / name) as file:
            records[name] = FileRecord(size or 0, hash_file(file))
    return records


def _flatten(bound: Sequence[BoundComponent], step: int, first: int) -> list[FlatState]:
    if step != first:
        raise ValueError(f"this rank saves step {step}, and rank 0 saves step {first}")
    return flatten_states(bound)
