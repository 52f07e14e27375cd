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
import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from dcp_runner.checkpoint.bind import Bound
from dcp_runner.checkpoint.comm import Comm
from dcp_runner.checkpoint.digest import hash_bytes, hash_file
from dcp_runner.checkpoint.errors import CheckpointError, UnstorableError
from dcp_runner.checkpoint.files import open_regular
from dcp_runner.checkpoint.manifest import CheckpointManifest, ComponentRecord, CopyRecord, FileRecord
from dcp_runner.checkpoint.plan import stem
from dcp_runner.checkpoint.settling import settle
from dcp_runner.checkpoint.skeleton import Json
from dcp_runner.checkpoint.staging import Staged, digest, stage, take_apart
from dcp_runner.checkpoint.storage import MANIFEST, Storage, flush, listing
from dcp_runner.checkpoint.tensorfile import encode
from dcp_runner.checkpoint.topology import Topology
from dcp_runner.checkpoint.tree import Flat
from dcp_runner.checkpoint.verify import verify

AddFiles = Callable[[Path], object]
"""Called on rank 0 with the folder that becomes the checkpoint; whatever files it writes there become part of it."""


class Stopwatch:
    """Seconds since the last lap, by name of the phase."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name] = round(now - self._last, 4)
        self._last = now


def save(
    bound: Sequence[Bound],
    topology: Topology,
    comm: Comm,
    storage: Storage,
    *,
    step: int,
    attempt: str,
    metrics: Mapping[str, float],
    config: str,
    add_files: AddFiles | None = None,
) -> Path:
    """Save all components; the path of the committed checkpoint, on every rank. Raises CheckpointError on all
    living ranks.
    """
    staging, watch = storage.staging(step, attempt), Stopwatch()
    added: dict[str, FileRecord] = {}

    def begin() -> int:
        _begin(storage, step, attempt)
        if add_files is not None:
            added.update(_add_files(add_files, staging))
        return step

    try:
        first = comm.from_first("plan", begin)
        settle(bound, comm)
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
                [one.bound for one in staged], topology, gathered, watch, step, attempt, metrics, config
            )
            files = dict(manifest.files) | _write_indexes(staged, gathered, storage, staging) | added
            manifest = CheckpointManifest(**{**manifest.__dict__, "files": files})
            storage.write(staging / MANIFEST, [manifest.render(hash_bytes)])

        comm.agree("manifest", lambda: write_manifest() if comm.rank == 0 else None)

        def commit() -> None:
            comm.permitted()
            storage.commit(step, attempt)

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


def _begin(storage: Storage, step: int, attempt: str) -> None:
    if type(step) is not int or step < 0:
        raise ValueError(f"a step is a whole number from 0 on; found {step!r}")
    storage.begin(step, attempt)


def _add_files(add_files: AddFiles, staging: Path) -> dict[str, FileRecord]:
    """Let files be written into the staging folder, while it is empty; ours never overwrite one. Their records.

    Raises UnstorableError for links and special files.
    """
    add_files(staging)
    sizes = listing(staging)
    special = [name for name, size in sizes.items() if size is None]
    if special:
        raise UnstorableError(f"add_files: a checkpoint holds regular files only; found {', '.join(special)}")
    records = {}
    for name, size in sizes.items():
        flush(staging, name)
        with open_regular(staging / name) as file:
            records[name] = FileRecord(size or 0, hash_file(file))
    return records


def _plan(bound: Sequence[Bound], step: int, first: int, metrics: Mapping[str, float]) -> list[Flat]:
    if step != first:
        raise ValueError(f"this rank saves step {step}, and rank 0 saves step {first}")
    odd = {name: value for name, value in metrics.items() if not (isinstance(name, str) and _is_number(value))}
    if odd:
        raise TypeError(f"metrics are numbers by name; found {odd}")
    return take_apart(bound)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) or getattr(value, "shape", None) == ()


def _write(staged: Sequence[Staged], rank: int, storage: Storage, staging: Path) -> dict[str, Json]:
    """Write this rank's parts; path -> size, digest and bytes of tensors of each."""
    records: dict[str, Json] = {}
    for one in staged:
        for part in (part for part in one.parts if part.writer == rank):
            about = {"component": one.bound.key, "copy": one.bound.mine.name, "part": part.number, "parts": part.count}
            tensors = one.held_by(part)
            header, buffers = encode(
                about | ({"tree": one.flat.skeleton} if part.number == 1 else {}), tensors, one.digests, one.flat.boxes
            )
            size = storage.write(staging / part.path, (buffer for source in ([header], buffers) for buffer in source))
            records[part.path] = {"size": size, "digest": hash_bytes(header), "bytes": size - len(header)}
            records[part.path] |= {"component": one.bound.key, "copy": one.bound.mine.name, "writer": rank}
    return records


def _write_indexes(
    staged: Sequence[Staged], gathered: Sequence[dict[str, Json]], storage: Storage, staging: Path
) -> dict[str, FileRecord]:
    """For the copies of several parts that rank 0 holds, the index by which Hugging Face's tools find a tensor."""
    written: dict[str, FileRecord] = {}
    for one in staged:
        if len(one.parts) > 1:
            where = {name: Path(part.path).name for part in one.parts for name in one.held_by(part)}
            index = {"metadata": {"total_size": sum(one.sizes.values())}, "weight_map": dict(sorted(where.items()))}
            data = json.dumps(index, indent=2, allow_nan=False).encode()
            path = stem(one.bound.key, one.bound.mine.name) + ".safetensors.index.json"
            written[path] = FileRecord(storage.write(staging / path, [data]), hash_bytes(data))
    return written


def _manifest(
    bound: Sequence[Bound],
    topology: Topology,
    gathered: Sequence[dict[str, Json]],
    watch: Stopwatch,
    step: int,
    attempt: str,
    metrics: Mapping[str, float],
    config: str,
) -> CheckpointManifest:
    files = {path: record for records in gathered for path, record in records.items()}
    return CheckpointManifest(
        step=step,
        attempt=attempt,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        world_size=topology.world_size,
        axes=topology.mesh,
        nodes=tuple(tuple(node) for node in topology.nodes or ()),
        components={one.key: _component(one, files) for one in bound},
        files={path: FileRecord(record["size"], record["digest"]) for path, record in files.items()},
        metrics={name: float(value) for name, value in metrics.items()},
        config=config,
        versions=_versions(),
        seconds=watch.laps,
    )


def _component(one: Bound, files: Mapping[str, Json]) -> ComponentRecord:
    own = {path: record for path, record in sorted(files.items()) if record["component"] == one.key}
    copies = {}
    for copy in one.copies:
        paths = [path for path, record in own.items() if record["copy"] == copy.name]
        copies[copy.name] = CopyRecord(copy.holders, tuple(own[path]["writer"] for path in paths), tuple(paths))
    return ComponentRecord(
        sharing=str(one.resolved.sharing),
        reason=one.resolved.reason,
        validation=one.level.value if one.checked else "none",
        bytes=sum(record["bytes"] for record in own.values()),
        copies=copies,
        metadata=dict(one.component.metadata),
        required=one.component.required,
    )


def _versions() -> dict[str, Any]:
    from dcp_runner import __version__

    return {"dcp_runner": __version__, "torch": torch.__version__, "python": platform.python_version()}
