"""Taking a state tree apart into a skeleton (see skeleton.py) and named tensors."""

from __future__ import annotations

import base64
import json
import math
import struct
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
import torch

from dcp_runner.checkpoint import sharded
from dcp_runner.checkpoint.box import Box
from dcp_runner.checkpoint.errors import UnstorableError
from dcp_runner.checkpoint.skeleton import FACTORIES, ROOT, TAG, Json

EXACT_INT = 2**53
DEEPEST = 100
"""Containers inside each other; deeper states would exhaust Python's stack, here or when they are read."""


@dataclass
class Flat:
    """A state taken apart."""

    skeleton: Json = None
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    """By path, in order of appearance; each memory once."""
    tied: dict[str, str] = field(default_factory=dict)
    """Path of a tensor that is the same memory as an earlier one -> path of that one."""
    boxes: dict[str, Box] = field(default_factory=dict)
    """Where a tensor that is a part of a DTensor lies in the whole; by path."""
    cuts: dict[str, tuple[sharded.Ranks, ...]] = field(default_factory=dict)
    """For each of these, the ranks along each mesh dimension by which it is cut."""
    values: dict[str, Json] = field(default_factory=dict)
    """By path, everything that is not a tensor: scalars as their JSON, containers as their kind and length."""


def join(path: str, key: Any) -> str:
    """The path of an item (by key, or by number in a list) of the container at `path`."""
    text = isinstance(key, str) and key != "__metadata__" and _is_text(key)
    step = key if text else json.dumps(_Flattener().value(key, ROOT))
    step = ("" if text else "~2") + step.replace("~", "~0").replace("/", "~1")
    return step if path == ROOT else f"{path}/{step}"


def join_index(path: str, number: int) -> str:
    """The path of an item of a list."""
    return str(number) if path == ROOT else f"{path}/{number}"


def flatten(state: Any) -> Flat:
    """Take a state apart. Raises UnstorableError with all paths and types that cannot be stored."""
    flattener = _Flattener()
    flattener.flat.skeleton = flattener.value(state, ROOT)
    if flattener.refused:
        raise UnstorableError("cannot be stored: " + "; ".join(flattener.refused))
    return flattener.flat


class _Flattener:
    def __init__(self) -> None:
        self.flat = Flat()
        self.refused: list[str] = []
        self._memory: dict[tuple[Any, ...], str] = {}
        self._above: list[int] = []

    def value(self, value: Any, path: str) -> Json:
        """JSON of one value; tensors and scalars are noted by path on the way."""
        if id(value) in self._above:
            return self._refuse(path, "contains itself")
        if len(self._above) > DEEPEST:
            return self._refuse(path, f"nested more than {DEEPEST} levels deep")
        encode = _ENCODERS.get(type(value))
        if encode is None and isinstance(value, torch.Tensor):
            encode = _Flattener.tensor
        if encode is None and isinstance(value, Enum):
            encode = _Flattener.enum
        if encode is None and isinstance(value, np.generic):
            encode = _Flattener.npscalar
        if encode is None:
            return self._refuse(path, f"type {type(value).__module__}.{type(value).__qualname__}")
        return encode(self, value, path)

    def _refuse(self, path: str, why: str) -> None:
        self.refused.append(f"{'the state itself' if path == ROOT else path}: {why}")

    def _scalar(self, encoded: Json, path: str) -> Json:
        self.flat.values[path] = encoded
        return encoded

    def plain(self, value: Any, path: str) -> Json:
        return self._scalar(value, path)

    def integer(self, value: int, path: str) -> Json:
        return self._scalar(value if abs(value) <= EXACT_INT else {TAG: "int", "v": hex(value)}, path)

    def real(self, value: float, path: str) -> Json:
        return self._scalar(_encode_float(value), path)

    def text(self, value: str, path: str) -> Json:
        if _is_text(value):
            return self._scalar(value, path)
        raw = value.encode("utf-8", "surrogatepass")
        return self._scalar({TAG: "str", "v": base64.b64encode(raw).decode()}, path)

    def octets(self, value: bytes, path: str) -> Json:
        return self._scalar({TAG: "bytes", "v": base64.b64encode(value).decode()}, path)

    def enum(self, value: Enum, path: str) -> Json:
        return self._scalar({TAG: "enum", "v": self._aside(value.value, path)}, path)

    def npscalar(self, value: np.generic, path: str) -> Json:
        if value.dtype.kind not in "biufcmM" or value.dtype.itemsize > 16 or value.dtype.char in "gG":
            return self._refuse(path, f"numpy scalar of dtype {value.dtype}")
        return self._scalar({TAG: "npscalar", "dtype": value.dtype.str, "v": value.tobytes().hex()}, path)

    def _items(self, value: Any, path: str, kind: str) -> list[Json]:
        self.flat.values[path] = {TAG: kind, "length": len(value)}
        self._above.append(id(value))
        items = [self.value(item, join_index(path, number)) for number, item in enumerate(value)]
        self._above.pop()
        return items

    def listing(self, value: list[Any], path: str) -> Json:
        return self._items(value, path, "list")

    def tuple(self, value: tuple[Any, ...], path: str) -> Json:
        kind = "size" if type(value) is torch.Size else "tuple"
        return {TAG: kind, "v": self._items(value, path, kind)}

    def mapping(self, value: Mapping[Any, Any], path: str) -> Json:
        kind = type(value).__name__
        extra: dict[str, Json] = {}
        if isinstance(value, defaultdict):
            names = [name for name, factory in FACTORIES.items() if factory is value.default_factory]
            if not names:
                return self._refuse(path, f"defaultdict of {value.default_factory!r} (known: {', '.join(FACTORIES)})")
            extra["of"] = names[0]
        metadata = getattr(value, "_metadata", None)
        if metadata is not None:
            extra["metadata"] = self._aside(metadata, path)
        keys = [self._aside(key, path) for key in value]
        if len({join(path, key) for key in value}) < len(value):
            return self._refuse(path, "two keys that look the same (NaN)")
        self.flat.values[path] = {TAG: kind, **extra}
        self._above.append(id(value))
        items = [self.value(item, join(path, key)) for key, item in value.items()]
        self._above.pop()
        if TAG in value or not all(type(key) is str and key == coded for key, coded in zip(value, keys, strict=True)):
            return {TAG: kind, **extra, "v": [list(pair) for pair in zip(keys, items, strict=True)]}
        body = dict(zip(keys, items, strict=True))
        return body if kind == "dict" else {TAG: kind, **extra, "v": body}

    def _aside(self, value: Any, path: str) -> Json:
        """JSON of a value that has no path of its own: a dict's key, a module's metadata, what an enum stands for."""
        other = _Flattener()
        encoded = other.value(value, ROOT)
        if other.refused or other.flat.tensors or isinstance(value, Enum):
            self._refuse(path, f"key, metadata or enum value {value!r}")
        return encoded

    def tensor(self, value: torch.Tensor, path: str) -> Json:
        part = sharded.is_sharded(value)
        if part and (why := sharded.why_not(value)):
            return self._refuse(path, why)
        if part:
            self.flat.cuts[path] = tuple(sharded.cuts(value))
            value, self.flat.boxes[path] = sharded.local_part(value)
        if why := _why_not(value):
            return self._refuse(path, why)
        value = value.detach()
        if value.is_conj() or value.is_neg():
            value = value.resolve_conj().resolve_neg()
        place = value.data_ptr() if value.numel() else value.untyped_storage()._cdata
        memory = (value.device, place, value.dtype, tuple(value.shape), value.stride())
        if (value.numel() or part) and memory in self._memory:  # an empty part is tied where the other parts are
            first = self.flat.tied[path] = self._memory[memory]
            return {TAG: "tensor", "v": first}
        self._memory[memory] = path
        self.flat.tensors[path] = value
        return {TAG: "tensor"}

    def ndarray(self, value: np.ndarray[Any, Any], path: str) -> Json:
        if value.dtype.kind not in "biufcmM" or value.dtype.char in "gG":
            return self._refuse(path, f"numpy array of dtype {value.dtype}")
        native = np.ascontiguousarray(value).reshape(value.shape)
        native = native.view(np.int64) if native.dtype.kind in "mM" else native.astype(native.dtype.newbyteorder("="))
        self.flat.tensors[path] = torch.from_numpy(native.copy() if not native.flags.writeable else native)
        self.flat.values[path] = {TAG: "ndarray", "dtype": value.dtype.str}
        return {TAG: "ndarray", "dtype": value.dtype.str}


_ENCODERS: dict[type, Callable[[_Flattener, Any, str], Json]] = {
    type(None): _Flattener.plain,
    bool: _Flattener.plain,
    int: _Flattener.integer,
    float: _Flattener.real,
    str: _Flattener.text,
    bytes: _Flattener.octets,
    list: _Flattener.listing,
    tuple: _Flattener.tuple,
    torch.Size: _Flattener.tuple,
    dict: _Flattener.mapping,
    OrderedDict: _Flattener.mapping,
    Counter: _Flattener.mapping,
    defaultdict: _Flattener.mapping,
    np.ndarray: _Flattener.ndarray,
}


def _encode_float(value: float) -> Json:
    if math.isfinite(value) and (value or math.copysign(1, value) > 0):
        return value
    bits = struct.pack(">d", value)
    text = bits.hex() if math.isnan(value) and bits != struct.pack(">d", math.nan) else str(value)
    return {TAG: "float", "v": text}


def _is_text(value: str) -> bool:
    return value.isascii() or not any(0xD800 <= ord(letter) <= 0xDFFF for letter in value)


_SUB_BYTE = {f"torch.{sign}int{bits}" for sign in ("", "u") for bits in range(1, 8)}


def _why_not(tensor: torch.Tensor) -> str | None:
    """Why a tensor cannot be stored, or None."""
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer):
        return f"type {type(tensor).__module__}.{type(tensor).__qualname__}"
    if tensor.is_nested:
        return "nested tensor; store its parts"
    if tensor.layout is not torch.strided:
        return f"tensor of layout {tensor.layout}; make it dense first"
    if (
        tensor.is_quantized
        or str(tensor.dtype) in _SUB_BYTE
        or "bits" in str(tensor.dtype)
        or str(tensor.dtype) == "torch.bit"
    ):
        return f"tensor of dtype {tensor.dtype}"
    if tensor.is_meta:
        return "tensor on the meta device, which has no data"
    return None
