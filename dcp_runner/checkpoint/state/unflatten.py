"""Unflattens a state: builds it from its tree spec (see treespec.py) and its tensors.

The kinds are a closed table: nothing that a checkpoint names is imported.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from dcp_runner.checkpoint.errors import MismatchError
from dcp_runner.checkpoint.state import arrays, scalars
from dcp_runner.checkpoint.state.flatten import join, join_index
from dcp_runner.checkpoint.state.treespec import DICTS, FACTORIES, ROOT, TAG, Json, fields_of
from dcp_runner.common.torch_private import set_metadata

Tensors = Callable[[str, Any], torch.Tensor]
"""(name of a stored tensor, live value at its path or None) -> the tensor."""


def unflatten(spec: Json, tensors: Tensors, live: Any = None) -> Any:
    """Build a state.

    `live` is the state that it replaces. The live value at the same path gives an enum its type, and is passed to
    `tensors` for a tensor. A namedtuple has the type of the live one, and is a plain tuple if there is none. Raises
    MismatchError with the paths of enums that have no live counterpart, of namedtuples whose live counterpart has other
    fields, and of kinds that this version does not know.
    """
    builder = _Builder(tensors)
    state = builder.value(spec, ROOT, live)
    if builder.problems:
        raise MismatchError("; ".join(builder.problems))
    return state


def unflatten_for_diff(spec: Json, tensors: Tensors, live: Any = None) -> Any:
    """The same for a comparison: None replaces what cannot be built, such as an enum without a live counterpart."""
    return _Builder(tensors).value(spec, ROOT, live)


class _Builder:
    """Builds one value after the other, and collects the problems."""

    def __init__(self, tensors: Tensors) -> None:
        self.tensors = tensors
        self.problems: list[str] = []

    def value(self, value: Json, path: str, live: Any) -> Any:
        if isinstance(value, list):
            return self._items(value, path, live)
        if not isinstance(value, dict):
            return value
        if TAG not in value:
            return self._body({TAG: "dict", "v": value}, path, live)
        kind, inner = value[TAG], value.get("v")
        if kind in DICTS:
            return self._body(value, path, live)
        if kind == "tensor":
            return self.tensors(inner if inner is not None else path, live)
        if kind == "ndarray":
            return arrays.to_array(self.tensors(path, arrays.UNSHARDED), np.dtype(value["dtype"]))
        if kind == "enum":
            return self._enum(inner, path, live)
        if kind in ("tuple", "size", "deque", "namedtuple"):
            return self._sequence(value, path, live)
        if kind in ("set", "frozenset"):
            members = [self.value(member, path, None) for member in value["v"]]
            return set(members) if kind == "set" else frozenset(members)
        if kind == "bytesio":
            return arrays.to_stream(self.tensors(path, arrays.UNSHARDED))
        if scalars.knows(kind):
            return self._scalar(value, path)
        self.problems.append(f"{path}: unknown kind {kind!r}; the checkpoint was written by a newer version")
        return None

    def _scalar(self, value: dict[str, Json], path: str) -> Any:
        try:
            return scalars.decode(value)
        except (ValueError, RuntimeError) as error:
            self.problems.append(f"{path}: {error}")
            return None

    def _sequence(self, value: dict[str, Json], path: str, live: Any) -> Any:
        items = self._items(value["v"], path, live)
        if value[TAG] == "size":
            return torch.Size(items)
        if value[TAG] == "deque":
            return deque(items, value["maxlen"])
        if value[TAG] == "tuple" or not fields_of(live):
            return tuple(items)
        if list(fields_of(live)) != value["fields"]:
            saved, current = ", ".join(value["fields"]), ", ".join(fields_of(live))
            self.problems.append(
                f"{path}: a namedtuple of {saved} in the checkpoint, but {type(live).__qualname__} has {current}"
            )
            return None
        return live._make(items)

    def _items(self, items: list[Json], path: str, live: Any) -> list[Any]:
        lives = live if isinstance(live, list | tuple | deque) and len(live) == len(items) else [None] * len(items)
        return [self.value(item, join_index(path, index), lives[index]) for index, item in enumerate(items)]

    def _body(self, value: dict[str, Json], path: str, live: Any) -> Any:
        kind, body = value[TAG], value["v"]
        lives = live if isinstance(live, Mapping) else {}
        content = {key: self.value(item, join(path, key), lives.get(key)) for key, item in self._pairs(body, path)}
        if kind in ("dict", "mappingproxy"):
            return content if kind == "dict" else MappingProxyType(content)
        if kind == "defaultdict":
            return defaultdict(FACTORIES[value["of"]], content)
        result: Any = OrderedDict(content) if kind == "OrderedDict" else Counter(content)
        if "metadata" in value:
            set_metadata(result, self.value(value["metadata"], ROOT, None))
        return result

    def _enum(self, inner: Json, path: str, live: Any) -> Any:
        if not isinstance(live, Enum):
            self.problems.append(
                f"{path}: an enum in the checkpoint, but no enum in the live state that would give its type"
            )
            return None
        value = self.value(inner, path, None)
        try:
            return type(live)(value)
        except ValueError:
            self.problems.append(f"{path}: {value!r} in the checkpoint is not a value of {type(live).__qualname__}")
            return None

    def _pairs(self, body: Json, path: str) -> Iterator[tuple[Any, Json]]:
        """The keys and items of a stored dict."""
        if isinstance(body, dict):
            yield from body.items()
        else:
            for key, item in body:
                yield self.value(key, path, None), item
