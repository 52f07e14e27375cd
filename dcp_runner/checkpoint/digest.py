"""Digests of tensors and of whole states: for the comparison of holders, and for the integrity of files.

xxh3 with 128 bits, in blocks, so that a part of a tensor can be checked and one pass serves both purposes. It finds
accidents; it is no defence against somebody who wants to deceive.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO

import torch
import xxhash

from dcp_runner.checkpoint.skeleton import ROOT, TAG, Json
from dcp_runner.checkpoint.tree import Flat

BLOCK = 4 * 2**20
"""Bytes that one digest of a file's index covers."""


def hash_bytes(data: bytes | memoryview) -> str:
    """32 hex digits."""
    return xxhash.xxh3_128_hexdigest(data)


def hash_file(file: BinaryIO) -> str:
    """The same of what is left to read of a file, in bounded memory."""
    hasher = xxhash.xxh3_128()
    while block := file.read(BLOCK):
        hasher.update(block)
    return hasher.hexdigest()


def host_bytes(tensor: torch.Tensor) -> memoryview:
    """The tensor's values as bytes in row-major order: a view where it is contiguous and on the CPU, else a copy."""
    dense = tensor.detach().cpu().contiguous()
    if not dense.numel():
        return memoryview(b"")
    flat = dense.as_strided((dense.numel(),), (1,))  # of a size of 1, "contiguous" leaves any stride
    return memoryview(flat.view(torch.uint8).numpy().data)


def dtype_name(tensor: torch.Tensor) -> str:
    """`float32` for torch.float32."""
    return str(tensor.dtype).removeprefix("torch.")


@dataclass(frozen=True)
class TensorDigest:
    """Digests of a tensor's blocks of 4 MiB, its dtype and shape, and their digest."""

    blocks: tuple[str, ...]
    whole: str
    number: str = ""
    """For a 0-d tensor its kind and value, so that it can equal a Python number; else empty."""


def digest_tensor(tensor: torch.Tensor) -> TensorDigest:
    """One pass over the tensor's bytes."""
    data = host_bytes(tensor)
    blocks = tuple(hash_bytes(data[start : start + BLOCK]) for start in range(0, len(data), BLOCK))
    whole = hash_bytes(f"{dtype_name(tensor)} {tuple(tensor.shape)} {' '.join(blocks)}".encode())
    return TensorDigest(
        blocks, whole, _number(tensor.to(torch.float64).item()) if _is_float(tensor) else _exact(tensor)
    )


@dataclass(frozen=True)
class Entry:
    """What is compared between the holders at one path of a state."""

    exact: str
    """Digest of kind, dtype, shape and bytes."""
    number: str = ""
    """Kind and value of a Python number or a 0-d tensor."""
    python: bool = False
    """A Python value, not a tensor."""


def entries(flat: Flat, digests: Mapping[str, TensorDigest]) -> dict[str, Entry]:
    """The entry of every path: tensors by digest, everything else by its JSON. The order of a dict's keys is not seen.

    Tied tensors differ from untied ones of the same values: they train otherwise, and are written otherwise.
    """
    table = {path: Entry(_hash_text(_text(value)), _number(value), True) for path, value in flat.values.items()}
    for path in (*flat.tensors, *flat.tied):
        digest = digests[flat.tied.get(path, path)]
        prefix = table[path].exact if path in table else ""
        more = f"tied to {flat.tied[path]}" if path in flat.tied else ""
        more += _place(flat, path)
        table[path] = Entry(_hash_text(prefix + digest.whole + more), "" if prefix or more else digest.number)
    return table


def outlines(flat: Flat) -> dict[str, Entry]:
    """What holders must have alike even where their values are not compared: names, dtypes, shapes and places of
    tensors. What the writer does not have would not be written.
    """
    return {
        path: Entry(f"{dtype_name(tensor)} {tuple(tensor.shape)} {_place(flat, path)}")
        for path, tensor in flat.tensors.items()
    }


def _place(flat: Flat, path: str) -> str:
    """Where a part of a tensor lies in the whole; empty for a whole one."""
    box = flat.boxes.get(path)
    return str(box) if box and box.sizes != box.shape else ""


def total(table: Mapping[str, Entry]) -> str:
    """One digest of many entries."""
    return _hash_text("\n".join(f"{path} {table[path].exact}" for path in sorted(table)))


def same(one: Entry, other: Entry) -> bool:
    """Equal bits; or a Python number and a 0-d tensor (or two Python numbers) of the same kind and value."""
    if one.exact == other.exact:
        return True
    return bool(one.number) and one.number == other.number and (one.python or other.python)


def _number(value: Json) -> str:
    if type(value) is bool:
        return f"bool {value}"
    if type(value) is int:
        return f"int {value:x}"
    if type(value) is float:
        return f"float {struct.pack('>d', value).hex()}"
    if isinstance(value, dict) and value.get(TAG) == "int":
        return f"int {int(value['v'], 16):x}"
    if isinstance(value, dict) and value.get(TAG) == "float":
        text = value["v"]
        return f"float {text if len(text) == 16 else struct.pack('>d', float(text)).hex()}"
    return ""


def _is_float(tensor: torch.Tensor) -> bool:
    return (
        tensor.ndim == 0 and tensor.is_floating_point() and tensor.element_size() > 0 and "x2" not in str(tensor.dtype)
    )


def _exact(tensor: torch.Tensor) -> str:
    whole = tensor.ndim == 0 and not tensor.is_complex() and not tensor.is_floating_point()
    return _number(tensor.item()) if whole else ""


def _hash_text(text: str) -> str:
    return hash_bytes(text.encode("utf-8", "surrogatepass"))


def _text(value: Json) -> str:
    """A value's kind and JSON; `True`, `1` and `1.0` differ, and so do a list and a tuple."""
    return f"{type(value).__name__} {value!r}"


__all__ = [
    "BLOCK",
    "ROOT",
    "Entry",
    "TensorDigest",
    "digest_tensor",
    "dtype_name",
    "entries",
    "hash_bytes",
    "hash_file",
    "host_bytes",
    "outlines",
    "same",
    "total",
]
