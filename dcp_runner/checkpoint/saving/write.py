"""Files of a save: this rank's parts, and the indexes of copies in several parts."""

from __future__ import annotations

import itertools
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


def write_parts(prepared: Sequence[PreparedComponent], rank: int, storage: Storage, folder: Path) -> dict[str, Json]:
    """Write this rank's parts; path -> size, digest and bytes of tensors of each."""
    records: dict[str, Json] = {}
    for component in prepared:
        key, copy = component.bound.key, component.bound.own_copy.name
        for part in (part for part in component.parts if part.writer == rank):
            about = {"component": key, "copy": copy, "part": part.number, "parts": part.count}
            about |= {"tree": component.flat.spec} if part.number == 1 else {}
            header, buffers = encode(about, component.tensors_of(part), component.digests, component.flat.boxes)
            size = storage.write(folder / part.path, itertools.chain([header], buffers))
            records[part.path] = {"size": size, "digest": hash_bytes(header), "bytes": size - len(header)}
            records[part.path] |= {"component": key, "copy": copy, "writer": rank}
    return records


def write_indexes(prepared: Sequence[PreparedComponent], storage: Storage, folder: Path) -> dict[str, FileRecord]:
    """For the copies of several parts that rank 0 holds, the index by which Hugging Face's tools find a tensor."""
    written: dict[str, FileRecord] = {}
    for component in prepared:
        if len(component.parts) > 1:
            files = {name: Path(part.path).name for part in component.parts for name in component.tensors_of(part)}
            index = {
                "metadata": {"total_size": sum(component.sizes.values())},
                "weight_map": dict(sorted(files.items())),
            }
            data = json.dumps(index, indent=2, allow_nan=False).encode()
            path = stem(component.bound.key, component.bound.own_copy.name) + ".safetensors.index.json"
            written[path] = FileRecord(storage.write(folder / path, [data]), hash_bytes(data))
    return written
