"""Flattens a state into a tree spec (see treespec.py) and named tensors."""

from __future__ import annotations

import json
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
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
"""Levels of containers: deeper states would exhaust Python's stack, here or when they are read."""


@dataclass
class FlatState:
    """A flattened state. The keys of all dicts are paths."""

    spec: Json = None
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    """In order of appearance, each memory once: the local tensors of DTensors, and all other tensors."""
    tied: dict[str, str] = field(default_factory=dict)
    """Path of a tensor that is the same memory as an earlier one -> path of that one."""
    boxes: dict[str, Box] = field(default_factory=dict)
    """Where the local tensor of a DTensor is in the global tensor."""
    shard_groups: dict[str, tuple[dtensor.Ranks, ...]] = field(default_factory=dict)
    """For each mesh dimension along which a DTensor is sharded, the ranks along it."""
    replica_groups: dict[str, tuple[dtensor.Ranks, ...]] = field(default_factory=dict)
    """For each mesh dimension along which a DTensor is replicated, the ranks along it."""
    values: dict[str, Json] = field(default_factory=dict)
    """Everything that is not a tensor: leaves as their JSON, containers as their kind and length."""


def join(path: str, key: Any) -> str:
    """The path of the item with this key in the container at `path`."""
    text = isinstance(key, str) and key != "__metadata__" and scalars.is_text(key)
    step = key if text else json.dumps(_Flattener([]).flatten(key, ROOT))
    step = ("" if text else "~2") + step.replace("~", "~0").replace("/", "~1")
    return step if path == ROOT else f"{path}/{step}"


def join_index(path: str, index: int) -> str:
    """The path of an item of the list at `path`."""
    return str(index) if path == ROOT else f"{path}/{index}"


def flatten(state: Any) -> FlatState:
    """Flatten a state. Raises UnsupportedStateError with the path and type of everything that cannot be stored."""
    flattener = _Flattener([])
    flattener.flat.spec = flattener.flatten(state, ROOT)
    if flattener.problems:
        raise UnsupportedStateError("cannot be stored: " + "; ".join(flattener.problems))
    return flattener.flat


class _Flattener:
    """Fills `flat` while it walks a state; each method returns the spec of one value."""

    def __init__(self, ancestors: list[int]) -> None:
        self.flat = FlatState()
        self.problems: list[str] = []
        self._path_of_memory: dict[Hashable, str] = {}
        self._ancestors = ancestors

    def flatten(self, value: Any, path: str) -> Json:
        if id(value) in self._ancestors:
            return self._unsupported(path, "contains itself")
        if len(self._ancestors) > MAX_DEPTH:
            return self._unsupported(path, f"nested more than {MAX_DEPTH} levels deep")
        method = _method_for(value)
        try:
            return method(self, value, path) if method else self._leaf(scalars.encode(value), path)
        except UnsupportedStateError as error:
            return self._unsupported(path, str(error))

    def _unsupported(self, path: str, reason: str) -> None:
        self.problems.append(f"{'the state itself' if path == ROOT else path}: {reason}")

    def _leaf(self, encoded: Json, path: str) -> Json:
        self.flat.values[path] = encoded
        return encoded

    def _children(self, container: Any, items: Iterable[tuple[str, Any]]) -> list[Json]:
        """The specs of the (path, value) items of a container."""
        self._ancestors.append(id(container))
        specs = [self.flatten(item, path) for path, item in items]
        self._ancestors.pop()
        return specs

    def _items(self, value: Collection[Any], path: str, kind: str, extra: dict[str, Json]) -> list[Json]:
        self.flat.values[path] = {TAG: kind, "length": len(value), **extra}
        return self._children(value, ((join_index(path, index), item) for index, item in enumerate(value)))

    def list_(self, value: list[Any], path: str) -> Json:
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
                known = ", ".join(FACTORIES)
                return self._unsupported(path, f"defaultdict of {value.default_factory!r} (known: {known})")
            extra["of"] = names[0]
        metadata = metadata_of(value)
        if metadata is not None:
            extra["metadata"] = self._without_path(metadata, path)
        keys = [self._without_path(key, path) for key in value]
        paths = [join(path, key) for key in value]
        if len(set(paths)) < len(paths):
            return self._unsupported(path, "two keys that look the same (NaN)")
        self.flat.values[path] = {TAG: kind, **extra}
        items = self._children(value, zip(paths, value.values(), strict=True))
        if TAG in value or not all(type(key) is str and key == coded for key, coded in zip(value, keys, strict=True)):
            return {TAG: kind, **extra, "v": [list(pair) for pair in zip(keys, items, strict=True)]}
        body = dict(zip(keys, items, strict=True))
        return body if kind == "dict" else {TAG: kind, **extra, "v": body}

    def set_(self, value: Collection[Any], path: str) -> Json:
        """Members have no paths; they are sorted, so that equal sets are equal text."""
        self._ancestors.append(id(value))
        members = [self._without_path(member, path) for member in value]
        self._ancestors.pop()
        return self._leaf({TAG: type(value).__name__, "v": sorted(members, key=json.dumps)}, path)

    def enum(self, value: Enum, path: str) -> Json:
        return self._leaf({TAG: "enum", "v": self._without_path(value.value, path)}, path)

    def _without_path(self, value: Any, path: str) -> Json:
        """The spec of a value that has no path of its own: a dict's key, a member of a set, a module's metadata or the
        value of an enum. It may have no tensors and no enums, whose type is looked up in the live state by path.
        """
        other = _Flattener(self._ancestors)
        spec = other.flatten(value, ROOT)
        has_enum = any(isinstance(leaf, dict) and leaf.get(TAG) == "enum" for leaf in other.flat.values.values())
        if other.problems or other.flat.tensors or has_enum:
            self._unsupported(path, f"key, member of a set, metadata or enum value {value!r}")
        return spec

    def tensor(self, value: torch.Tensor, path: str) -> Json:
        if sharded := dtensor.is_dtensor(value):
            if reason := dtensor.unsupported_reason(value):
                return self._unsupported(path, reason)
            self.flat.shard_groups[path] = tuple(dtensor.shard_groups(value))
            self.flat.replica_groups[path] = tuple(dtensor.replica_groups(value))
            value, self.flat.boxes[path] = dtensor.local_shard(value)
        arrays.check_tensor(value)
        value = value.detach()
        if value.is_conj() or value.is_neg():
            value = value.resolve_conj().resolve_neg()
        key = (*arrays.memory_key(value), self.flat.boxes.get(path))  # shards of different tensors are never tied
        if (value.numel() or sharded) and key in self._path_of_memory:  # an empty shard is tied as the others are
            first = self.flat.tied[path] = self._path_of_memory[key]
            return {TAG: "tensor", "v": first}
        self._path_of_memory[key] = path
        self.flat.tensors[path] = value
        return {TAG: "tensor"}

    def ndarray(self, value: np.ndarray[Any, Any], path: str) -> Json:
        self.flat.tensors[path] = arrays.from_array(value)
        return self._leaf({TAG: "ndarray", "dtype": value.dtype.str}, path)

    def stream(self, value: BytesIO, path: str) -> Json:
        self.flat.tensors[path] = arrays.from_stream(value)
        return self._leaf({TAG: "bytesio"}, path)


_SEQUENCES: dict[type, str] = {tuple: "tuple", torch.Size: "size", deque: "deque"}
_METHODS: dict[type, Callable[[_Flattener, Any, str], Json]] = {
    list: _Flattener.list_,
    **dict.fromkeys(_SEQUENCES, _Flattener.sequence),
    **dict.fromkeys((set, frozenset), _Flattener.set_),
    **dict.fromkeys((dict, OrderedDict, Counter, defaultdict, MappingProxyType), _Flattener.mapping),
    np.ndarray: _Flattener.ndarray,
    BytesIO: _Flattener.stream,
}


def _method_for(value: Any) -> Callable[[_Flattener, Any, str], Json] | None:
    """How to flatten a value; None for a scalar."""
    if type(value) in _METHODS:
        return _METHODS[type(value)]
    if isinstance(value, torch.Tensor):
        return _Flattener.tensor
    if isinstance(value, Enum):
        return _Flattener.enum
    return _Flattener.sequence if fields_of(value) else None
