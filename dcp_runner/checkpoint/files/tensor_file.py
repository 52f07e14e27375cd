"""Files of tensors: safetensors whose header carries the state's tree spec and a digest for each block of the data.

The header's `__metadata__` has the key `dcp_runner`, a JSON object:

    {"format": 1, "component": "model", "copy": "all", "part": 1, "parts": 4,
     "tree": {...},                                        the tree spec (treespec.py), in part 1
     "tensors": {"w": {"blocks": ["<32 hex>", ...]},       digests of 4 MiB each; and, where the data is stored as bytes
                 "z": {"blocks": [...], "dtype": "complex128", "shape": [2]},
                 "c": {"blocks": [...], "box": {"shape": [8, 4], "offsets": [2, 0]}}}}     a part of a larger tensor

The manifest holds the digest of the header, and the header the digests of the data, so every byte is covered and
any part can be checked alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dcp_runner.checkpoint.digest import BLOCK, TensorDigest, dtype_name, hash_bytes, hash_file, host_bytes
from dcp_runner.checkpoint.errors import IntegrityError, NewerFormatError
from dcp_runner.checkpoint.files.access import open_regular, reading
from dcp_runner.checkpoint.state.box import Box
from dcp_runner.checkpoint.state.treespec import Json

FORMAT = 1
INDEX = "dcp_runner"
PREFIX = 8
"""Bytes before the header: its length, little-endian."""

CODES = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "int16": "I16", "uint16": "U16", "int32": "I32", "uint32": "U32",
    "int64": "I64", "uint64": "U64", "float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64",
    "complex64": "C64", "float8_e4m3fn": "F8_E4M3", "float8_e4m3fnuz": "F8_E4M3FNUZ", "float8_e5m2": "F8_E5M2",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
}  # fmt: skip
"""safetensors' names of the dtypes that it can save and load; the others are stored as bytes (U8)."""
DTYPES = {code: getattr(torch, name) for name, code in CODES.items() if hasattr(torch, name)}
BYTES_ONLY = {
    name: getattr(torch, name)
    for name in ("complex32", "complex128", "float8_e8m0fnu", "float4_e2m1fn_x2")
    if hasattr(torch, name)
}


def encode(
    about: Mapping[str, Json],
    tensors: Mapping[str, torch.Tensor],
    digests: Mapping[str, TensorDigest],
    boxes: Mapping[str, Box],
) -> tuple[bytes, Iterator[memoryview]]:
    """The header of a file, and the buffers that follow it.

    `about` is put into the index; `boxes` has the position of each tensor that is part of a larger one.
    """
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    table: dict[str, Json] = {}
    index: dict[str, Json] = {}
    offset = 0
    for name in order:
        tensor, dtype = tensors[name], dtype_name(tensors[name])
        size = tensor.numel() * tensor.element_size()
        index[name] = {"blocks": list(digests[name].blocks)}
        if dtype not in CODES:
            index[name] |= {"dtype": dtype, "shape": list(tensor.shape)}
        box = boxes.get(name)
        if box and box.sizes != box.shape:
            index[name]["box"] = {"shape": list(box.shape), "offsets": list(box.offsets)}
        shape = list(tensor.shape) if dtype in CODES else [size]
        table[name] = {"dtype": CODES.get(dtype, "U8"), "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = _json({"format": FORMAT, **about, "tensors": index})
    header = _json({"__metadata__": {"format": "pt", INDEX: text}, **table}).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(PREFIX, "little") + header, (host_bytes(tensors[name]) for name in order)


def _json(value: Json) -> str:
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor is in a file, counted from the end of the header."""

    start: int
    stop: int
    dtype: torch.dtype
    box: Box
    """Its position in the whole tensor."""
    blocks: tuple[str, ...]


class TensorFile:
    """A file opened for reading; a context manager.

    `name` is the path inside the checkpoint, for messages. Raises, on opening or on reading, IntegrityError where a
    byte is not what was written, FileAccessError where it cannot be read.
    """

    def __init__(self, path: Path, name: str, *, size: int, digest: str) -> None:
        self.name, self._path = name, path
        with reading(path, name), ExitStack() as on_failure:
            self._file = on_failure.enter_context(open_regular(path))
            self._data, self.about, self.tensors = self._open(size, digest)
            on_failure.pop_all()
        self._checked: set[tuple[str, int]] = set()

    def __enter__(self) -> TensorFile:
        return self

    def __exit__(self, *_: object) -> None:
        with reading(self._path, self.name):
            self._file.close()

    def _open(self, size: int, digest: str) -> tuple[int, dict[str, Json], dict[str, StoredTensor]]:
        found = os.fstat(self._file.fileno()).st_size
        if found != size:
            raise IntegrityError(f"{self.name}: has {found} bytes, the manifest says {size}")
        prefix = self._file.read(PREFIX)
        length = int.from_bytes(prefix, "little")
        header = self._file.read(length) if length <= size else b""
        if hash_bytes(prefix + header) != digest:
            raise IntegrityError(f"{self.name}: its header has changed since it was written (digest {digest} expected)")
        table = json.loads(header)
        about = json.loads(table.pop("__metadata__")[INDEX])
        if about["format"] > FORMAT:
            raise NewerFormatError(f"{self.name}: format {about['format']} is newer than this version's {FORMAT}")
        return PREFIX + length, about, {name: _stored(table[name], extra) for name, extra in about["tensors"].items()}

    def read(self, name: str, start: int, target: memoryview) -> None:
        """Fill `target` with the bytes of a tensor from its byte `start` on, every block checked that this touches."""
        stored, stop = self.tensors[name], start + len(target)
        for number in range(start // BLOCK, -(-stop // BLOCK)):
            first, last = number * BLOCK, min((number + 1) * BLOCK, stored.stop - stored.start)
            inside = first >= start and last <= stop
            block = target[first - start : last - start] if inside else memoryview(bytearray(last - first))
            self._fill(name, number, block)
            if not inside:
                low, high = max(first, start), min(last, stop)
                target[low - start : high - start] = block[low - first : high - first]

    def check(self) -> None:
        """Read and check every block that has not been read yet, in bounded memory."""
        buffer = memoryview(bytearray(BLOCK))
        for name, stored in self.tensors.items():
            for number in (n for n in range(len(stored.blocks)) if (name, n) not in self._checked):
                self._fill(name, number, buffer[: min(BLOCK, stored.stop - stored.start - number * BLOCK)])

    def _fill(self, name: str, number: int, block: memoryview) -> None:
        stored = self.tensors[name]
        with reading(self._path, self.name):
            self._file.seek(self._data + stored.start + number * BLOCK)
            count = self._file.readinto(block)
        if count != len(block):
            raise IntegrityError(f"{self.name}: ends inside tensor {name!r}")
        found, expected = hash_bytes(block), stored.blocks[number]
        if found != expected:
            where = f"{self.name}: tensor {name!r}, block {number}"
            raise IntegrityError(
                f"{where}: the bytes have changed since they were written (digest {found}, expected {expected})"
            )
        self._checked.add((name, number))


def _stored(entry: dict[str, Any], extra: dict[str, Any]) -> StoredTensor:
    start, stop = entry["data_offsets"]
    dtype = BYTES_ONLY[extra["dtype"]] if "dtype" in extra else DTYPES[entry["dtype"]]
    sizes = tuple(extra.get("shape", entry["shape"]))
    box = extra.get("box")
    part = Box(tuple(box["shape"]), tuple(box["offsets"]), sizes) if box else Box.full(sizes)
    return StoredTensor(start, stop, dtype, part, tuple(extra["blocks"]))


def check_plain(path: Path, name: str, *, size: int, digest: str) -> None:
    """Check in full a file that is not a tensor file. Raises IntegrityError, FileAccessError."""
    with reading(path, name), open_regular(path) as file:
        found, hashed = os.fstat(file.fileno()).st_size, hash_file(file)
    if found != size or hashed != digest:
        raise IntegrityError(f"{name}: the bytes have changed since they were written")
