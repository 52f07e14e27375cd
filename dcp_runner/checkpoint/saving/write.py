"""The phases of a save in which files are written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from dcp_runner.checkpoint.digest import hash_bytes
from dcp_runner.checkpoint.files.manifest import FileRecord
from dcp_runner.checkpoint.files.storage import Storage
from dcp_runner.checkpoint.files.tensor_file import encode
from dcp_runner.checkpoint.saving.prepare import PreparedComponent
from dcp_runner.checkpoint.saving.write_plan import stem
from dcp_runner.checkpoint.state.treespec import Json


def _write(staged: Sequence[PreparedComponent], rank: int, storage: Storage, staging: Path) -> dict[str, Json]:
    """Write this rank's parts; path -> size, digest and bytes of tensors of each."""
    records: dict[str, Json] = {}
    for one in staged:
        for part in (part for part in one.parts if part.writer == rank):
            about = {
                "component": one.bound.key,
                "copy": one.bound.own_copy.name,
                "part": part.number,
                "parts": part.count,
            }
            tensors = one.tensors_of(part)
            header, buffers = encode(
                about | ({"tree": one.flat.spec} if part.number == 1 else {}), tensors, one.digests, one.flat.boxes
            )
            size = storage.write(staging / part.path, (buffer for source in ([header], buffers) for buffer in source))
            records[part.path] = {"size": size, "digest": hash_bytes(header), "bytes": size - len(header)}
            records[part.path] |= {"component": one.bound.key, "copy": one.bound.own_copy.name, "writer": rank}
    return records


def _write_indexes(
    staged: Sequence[PreparedComponent], gathered: Sequence[dict[str, Json]], storage: Storage, staging: Path
) -> dict[str, FileRecord]:
    """For the copies of several parts that rank 0 holds, the index by which Hugging Face's tools find a tensor."""
    written: dict[str, FileRecord] = {}
    for one in staged:
        if len(one.parts) > 1:
            where = {name: Path(part.path).name for part in one.parts for name in one.tensors_of(part)}
            index = {"metadata": {"total_size": sum(one.sizes.values())}, "weight_map": dict(sorted(where.items()))}
            data = json.dumps(index, indent=2, allow_nan=False).encode()
            path = stem(one.bound.key, one.bound.own_copy.name) + ".safetensors.index.json"
            written[path] = FileRecord(storage.write(staging / path, [data]), hash_bytes(data))
    return written
