"""A fingerprint of each leaf of a flattened state. Ranks that hold equal state have equal fingerprints."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from dcp_runner.checkpoint.digest import TensorDigest, dtype_name, hash_bytes
from dcp_runner.checkpoint.state.flatten import FlatState
from dcp_runner.checkpoint.state.treespec import TAG, Json


@dataclass(frozen=True)
class LeafFingerprint:
    """What is compared between ranks at one path of a state."""

    exact: str
    """The digest of kind, dtype, shape and bytes."""
    number: str = ""
    """The kind and value of a Python number or a 0-d tensor; empty for anything else."""
    python: bool = False
    """Whether it is a Python value, not a tensor."""


def fingerprints(flat: FlatState, digests: Mapping[str, TensorDigest]) -> dict[str, LeafFingerprint]:
    """The fingerprint of every path: of tensors by their digests, of all else by its JSON. The order of a dict's keys
    does not matter.

    Tied tensors differ from untied ones of the same values: they train and are written differently.
    """
    table = {
        path: LeafFingerprint(_hash_text(_text(value)), _number(value), True) for path, value in flat.values.items()
    }
    for path in (*flat.tensors, *flat.tied):
        first = flat.tied.get(path, path)
        prefix = table[path].exact if path in table else ""
        suffix = f"tied to {flat.tied[path]}" if path in flat.tied else ""
        suffix += _shard_text(flat, path)
        table[path] = LeafFingerprint(
            _hash_text(prefix + digests[first].whole + suffix),
            "" if prefix or suffix else _number_of(flat.tensors[first]),
        )
    return table


def layout_fingerprints(flat: FlatState) -> dict[str, LeafFingerprint]:
    """What must be equal even if values are not compared: the names, dtypes, shapes and boxes of tensors. A tensor that
    the writer lacks would not be written.
    """
    return {
        path: LeafFingerprint(f"{dtype_name(tensor)} {tuple(tensor.shape)} {_shard_text(flat, path)}")
        for path, tensor in flat.tensors.items()
    }


def _shard_text(flat: FlatState, path: str) -> str:
    """The box of a shard; empty for a full tensor."""
    box = flat.boxes.get(path)
    return str(box) if box and box.sizes != box.shape else ""


def combined_digest(table: Mapping[str, LeafFingerprint]) -> str:
    """One digest of many fingerprints."""
    return _hash_text("\n".join(f"{path} {table[path].exact}" for path in sorted(table)))


def equivalent(a: LeafFingerprint, b: LeafFingerprint) -> bool:
    """Equal bits; or two numbers of the same kind and value, of which at least one is a Python number."""
    return a.exact == b.exact or (bool(a.number) and a.number == b.number and (a.python or b.python))


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


def _number_of(tensor: torch.Tensor) -> str:
    """The kind and value of a 0-d tensor, as of a Python number; else empty."""
    if tensor.ndim or tensor.is_complex():
        return ""
    if not tensor.is_floating_point():
        return _number(tensor.item())
    plain = tensor.element_size() > 0 and "x2" not in str(tensor.dtype)
    return _number(tensor.to(torch.float64).item()) if plain else ""


def _hash_text(text: str) -> str:
    return hash_bytes(text.encode("utf-8", "surrogatepass"))


def _text(value: Json) -> str:
    """The type and text of a JSON value: `True`, `1` and `1.0` differ."""
    return f"{type(value).__name__} {value!r}"
