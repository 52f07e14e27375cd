"""Taking a state tree apart into a skeleton (see treespec.py) and named tensors."""

from __future__ import annotations

import json
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from io import BytesIO
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from dcp_runner.checkpoint.errors import UnsupportedStateError
from dcp_runner.checkpoint.state import arrays, dtensor, scalars
from dcp_runner.checkpoint.state.box import Box
from dcp_runner.checkpoint.state.treespec import FACTORIES, ROOT, TAG, Json, fields_of
from dcp_runner.common.torch_private import metadata_of

MAX_DEPTH = 100
"""Containers inside each other; deeper states would exhaust Python's stack, here or when they are read."""


@dataclass
class FlatState:
    """A state taken apart."""

    spec: Json = None
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    """By path, in order of appearance; each memory once."""
    tied: dict[str, str] = field(default_factory=dict)
    """Path of a tensor that is the same memory as an earlier one -> path of that one."""
    boxes: dict[str, Box] = field(default_factory=dict)
    """Where a tensor that is a part of a DTensor lies in the whole; by path."""
    shard_groups: dict[str, tuple[dtensor.Ranks, ...]] = field(default_factory=dict)
    """For each of these, the ranks along each mesh dimension by which it is cut."""
    replica_groups: dict[str, tuple[dtensor.Ranks, ...]] = field(default_factory=dict)
    """The same along each mesh dimension on which all ranks have the same part."""
    values: dict[str, Json] = field(default_factory=dict)
    """By path, everything that is not a tensor: scalars as their JSON, containers as their kind and length."""


def join(path: str, key: Any) -> str:
    """The path of an item (by key, or by number in a list) of the container at `path`."""
    text = isinstance(key, str) and key != "__metadata__" and scalars.is_text(key)
    step = key if text else json.dumps(_Flattener([]).value(key, ROOT))
    step = ("" if text else "~2") + step.replace("~", "~0").replace("/", "~1")
    return step if path == ROOT else f"{path}/{step}"


def join_index(path: str, number: int) -> str:
    """The path of an item of a list."""
    return str(number) if path == ROOT else f"{path}/{number}"


def flatten(state: Any) -> FlatState:
    """Take a state apart. Raises UnsupportedStateError with all paths and types that cannot be stored."""
    flattener = _Flattener([])
    flattener.flat.spec = flattener.value(state, ROOT)
    if flattener.refused:
        raise UnsupportedStateError("cannot be stored: " + "; ".join(flattener.refused))
    return flattener.flat


class _Flattener:
    def __init__(self, above: list[int]) -> None:
        self.flat = FlatState()
        self.refused: list[str] = []
        self._memory: dict[Hashable, str] = {}
        self._above = above

    def value(self, value: Any, path: str) -> Json:
        """JSON of one value; tensors and scalars are noted by path on the way."""
        if id(value) in self._above:
            return self._refuse(path, "contains itself")
        if len(self._above) > MAX_DEPTH:
            return self._refuse(path, f"nested more than {MAX_DEPTH} levels deep")
        encode = _encoder(value)
        try:
            return encode(self, value, path) if encode else self._scalar(scalars.encode(value), path)
        except UnsupportedStateError as error:
            return self._refuse(path, str(error))

    def _refuse(self, path: str, why: str) -> None:
        self.refused.append(f"{'the state itself' if path == ROOT else path}: {why}")

    def _scalar(self, encoded: Json, path: str) -> Json:
        self.flat.values[path] = encoded
        return encoded

    def enum(self, value: Enum, path: str) -> Json:
        return self._scalar({TAG: "enum", "v": self._aside(value.value, path)}, path)

    def members(self, value: Collection[Any], path: str) -> Json:
        """A set: its members have no paths, and are sorted so that equal sets are equal text."""
        self._above.append(id(value))
        coded = [self._aside(member, path) for member in value]
        self._above.pop()
        return self._scalar({TAG: type(value).__name__, "v": sorted(coded, key=json.dumps)}, path)

    def _items(self, value: Collection[Any], path: str, kind: str, extra: dict[str, Json]) -> list[Json]:
        self.flat.values[path] = {TAG: kind, "length": len(value), **extra}
        self._above.append(id(value))
        items = [self.value(item, join_index(path, number)) for number, item in enumerate(value)]
        self._above.pop()
        return items

    def listing(self, value: list[Any], path: str) -> Json:
        return self._items(value, path, "list", {})

    def sequence(self, value: Collection[Any], path: str) -> Json:
        kind = _SEQUENCES.get(type(value), "namedtuple")
        extra: dict[str, Json] = {}
        if isinstance(value, deque):
            extra["maxlen"] = value.maxlen
        elif kind == "namedtuple":
            extra["fields"] = [*fields_of(value)]
        return {TAG: kind, **extra, "v": self._items(value, path, kind, extra)}

    def mapping(self, value: Mapping[Any, Any], path: str) -> Json:
        kind = type(value).__name__
        extra: dict[str, Json] = {}
        if isinstance(value, defaultdict):
            names = [name for name, factory in FACTORIES.items() if factory is value.default_factory]
            if not names:
                return self._refuse(path, f"defaultdict of {value.default_factory!r} (known: {', '.join(FACTORIES)})")
            extra["of"] = names[0]
        metadata = metadata_of(value)
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
        """JSON of a value that has no path of its own: a dict's key, a member of a set, a module's metadata, what an
        enum stands for. An enum is none of them, because its type would be found in the live state by the path.
        """
        other = _Flattener(self._above)
        encoded = other.value(value, ROOT)
        enums = any(isinstance(coded, dict) and coded.get(TAG) == "enum" for coded in other.flat.values.values())
        if other.refused or other.flat.tensors or enums:
            self._refuse(path, f"key, member of a set, metadata or enum value {value!r}")
        return encoded

    def tensor(self, value: torch.Tensor, path: str) -> Json:
        if part := dtensor.is_dtensor(value):
            if why := dtensor.unsupported_reason(value):
                return self._refuse(path, why)
            self.flat.shard_groups[path], self.flat.replica_groups[path] = (
                tuple(dtensor.shard_groups(value)),
                tuple(dtensor.replica_groups(value)),
            )
            value, self.flat.boxes[path] = dtensor.local_shard(value)
        arrays.check_tensor(value)
        value = value.detach()
        if value.is_conj() or value.is_neg():
            value = value.resolve_conj().resolve_neg()
        memory = (*arrays.memory_of(value), self.flat.boxes.get(path))  # the place of a part is no other part's
        if (value.numel() or part) and memory in self._memory:  # an empty part is tied where the other parts are
            first = self.flat.tied[path] = self._memory[memory]
            return {TAG: "tensor", "v": first}
        self._memory[memory] = path
        self.flat.tensors[path] = value
        return {TAG: "tensor"}

    def ndarray(self, value: np.ndarray[Any, Any], path: str) -> Json:
        self.flat.tensors[path] = arrays.of_array(value)
        return self._scalar({TAG: "ndarray", "dtype": value.dtype.str}, path)

    def stream(self, value: BytesIO, path: str) -> Json:
        self.flat.tensors[path] = arrays.of_stream(value)
        return self._scalar({TAG: "bytesio"}, path)


_SEQUENCES: dict[type, str] = {tuple: "tuple", torch.Size: "size", deque: "deque"}
_ENCODERS: dict[type, Callable[[_Flattener, Any, str], Json]] = {
    list: _Flattener.listing,
    **dict.fromkeys(_SEQUENCES, _Flattener.sequence),
    **dict.fromkeys((set, frozenset), _Flattener.members),
    **dict.fromkeys((dict, OrderedDict, Counter, defaultdict, MappingProxyType), _Flattener.mapping),
    np.ndarray: _Flattener.ndarray,
    BytesIO: _Flattener.stream,
}


def _encoder(value: Any) -> Callable[[_Flattener, Any, str], Json] | None:
    """How a value that has parts, a tensor or a live type is taken apart; None for a scalar."""
    if type(value) in _ENCODERS:
        return _ENCODERS[type(value)]
    if isinstance(value, torch.Tensor):
        return _Flattener.tensor
    if isinstance(value, Enum):
        return _Flattener.enum
    return _Flattener.sequence if fields_of(value) else None
