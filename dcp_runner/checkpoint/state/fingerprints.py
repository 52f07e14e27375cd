"""One fingerprint of each leaf of a state, which equal holders have alike."""

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
    """What is compared between the holders at one path of a state."""

    exact: str
    """Digest of kind, dtype, shape and bytes."""
    number: str = ""
    """Kind and value of a Python number or a 0-d tensor."""
    python: bool = False
    """A Python value, not a tensor."""


def fingerprints(flat: FlatState, digests: Mapping[str, TensorDigest]) -> dict[str, LeafFingerprint]:
    """The entry of every path: tensors by digest, everything else by its JSON. The order of a dict's keys is not seen.

    Tied tensors differ from untied ones of the same values: they train otherwise, and are written otherwise.
    """
    table = {
        path: LeafFingerprint(_hash_text(_text(value)), _number(value), True) for path, value in flat.values.items()
    }
    for path in (*flat.tensors, *flat.tied):
        first = flat.tied.get(path, path)
        prefix = table[path].exact if path in table else ""
        more = f"tied to {flat.tied[path]}" if path in flat.tied else ""
        more += _place(flat, path)
        table[path] = LeafFingerprint(
            _hash_text(prefix + digests[first].whole + more), "" if prefix or more else _number_of(flat.tensors[first])
        )
    return table


def layout_fingerprints(flat: FlatState) -> dict[str, LeafFingerprint]:
    """What holders must have alike even where their values are not compared: names, dtypes, shapes and places of
    tensors. What the writer does not have would not be written.
    """
    return {
        path: LeafFingerprint(f"{dtype_name(tensor)} {tuple(tensor.shape)} {_place(flat, path)}")
        for path, tensor in flat.tensors.items()
    }


def _place(flat: FlatState, path: str) -> str:
    """Where a part of a tensor lies in the whole; empty for a whole one."""
    box = flat.boxes.get(path)
    return str(box) if box and box.sizes != box.shape else ""


def combined_digest(table: Mapping[str, LeafFingerprint]) -> str:
    """One digest of many entries."""
    return _hash_text("\n".join(f"{path} {table[path].exact}" for path in sorted(table)))


def equivalent(one: LeafFingerprint, other: LeafFingerprint) -> bool:
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


def _number_of(tensor: torch.Tensor) -> str:
    """Kind and value of a 0-d tensor, so that it can equal a Python number; else empty."""
    if tensor.ndim or tensor.is_complex():
        return ""
    if not tensor.is_floating_point():
        return _number(tensor.item())
    plain = tensor.element_size() > 0 and "x2" not in str(tensor.dtype)
    return _number(tensor.to(torch.float64).item()) if plain else ""


def _hash_text(text: str) -> str:
    return hash_bytes(text.encode("utf-8", "surrogatepass"))


def _text(value: Json) -> str:
    """A value's kind and JSON; `True`, `1` and `1.0` differ, and so do a list and a tuple."""
    return f"{type(value).__name__} {value!r}"
