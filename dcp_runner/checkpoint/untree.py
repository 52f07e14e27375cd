"""Putting a state tree together again from its skeleton. The kinds are a closed table: nothing named in a
checkpoint is imported.
"""

from __future__ import annotations

import base64
import struct
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from typing import Any

import numpy as np
import torch

from dcp_runner.checkpoint.errors import MismatchError
from dcp_runner.checkpoint.skeleton import DICTS, FACTORIES, ROOT, TAG, Json
from dcp_runner.checkpoint.tree import join, join_index

Tensors = Callable[[str, Any], torch.Tensor]
"""(name of a stored tensor, live value at its place or None) -> the tensor."""


def unflatten(skeleton: Json, tensors: Tensors, live: Any = None) -> Any:
    """Put a state together again.

    `live` is the state that is being replaced: an enum's type is taken from the value at the same path, and `tensors`
    is told the tensor. Raises MismatchError with the paths of enums that have no live counterpart and of
    tags that this version does not know.
    """
    builder = _Builder(tensors)
    state = builder.value(skeleton, ROOT, live)
    if builder.problems:
        raise MismatchError("; ".join(builder.problems))
    return state


class _Builder:
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
            return self._ndarray(value, path)
        if kind == "enum":
            return self._enum(inner, path, live)
        if kind in ("tuple", "size"):
            items = self._items(value["v"], path, live)
            return torch.Size(items) if kind == "size" else tuple(items)
        if kind in _SCALARS:
            return _SCALARS[kind](value)
        self.problems.append(f"{path}: unknown kind {kind!r}; it was written by a newer version")
        return None

    def _items(self, items: list[Json], path: str, live: Any) -> list[Any]:
        lives = live if isinstance(live, list | tuple) and len(live) == len(items) else [None] * len(items)
        return [self.value(item, join_index(path, number), lives[number]) for number, item in enumerate(items)]

    def _body(self, value: dict[str, Json], path: str, live: Any) -> Any:
        kind, body = value[TAG], value["v"]
        lives = live if isinstance(live, Mapping) else {}
        content = {key: self.value(item, join(path, key), lives.get(key)) for key, item in _pairs(body)}
        if kind == "dict":
            return content
        if kind == "defaultdict":
            return defaultdict(FACTORIES[value["of"]], content)
        result: Any = OrderedDict(content) if kind == "OrderedDict" else Counter(content)
        if "metadata" in value:
            result._metadata = self.value(value["metadata"], ROOT, None)
        return result

    def _enum(self, inner: Json, path: str, live: Any) -> Any:
        if not isinstance(live, Enum):
            self.problems.append(f"{path}: an enum was saved here, and the live state has no enum to tell its type")
            return None
        value = self.value(inner, path, None)
        try:
            return type(live)(value)
        except ValueError:
            self.problems.append(f"{path}: {value!r} was saved, which is no value of {type(live).__qualname__}")
            return None

    def _ndarray(self, value: dict[str, Json], path: str) -> Any:
        tensor = self.tensors(path, None)
        if tensor.is_meta:
            return np.empty(tuple(tensor.shape), np.dtype(value["dtype"]))
        dtype = np.dtype(value["dtype"])
        array = tensor.numpy()
        return array.view(dtype) if dtype.kind in "mM" else array.astype(dtype)


_SCALARS: dict[str, Callable[[dict[str, Json]], Any]] = {
    "int": lambda value: int(value["v"], 16),
    "float": lambda value: _decode_float(value["v"]),
    "str": lambda value: base64.b64decode(value["v"]).decode("utf-8", "surrogatepass"),
    "bytes": lambda value: base64.b64decode(value["v"]),
    "npscalar": lambda value: np.frombuffer(bytes.fromhex(value["v"]), np.dtype(value["dtype"]))[0],
}


def _pairs(body: Json) -> Iterator[tuple[Any, Json]]:
    """Keys and items of a stored dict."""
    if isinstance(body, dict):
        yield from body.items()
    else:
        for key, item in body:
            yield _Builder(lambda name, live: torch.empty(0)).value(key, ROOT, None), item


def _decode_float(text: str) -> float:
    return float(struct.unpack(">d", bytes.fromhex(text))[0]) if len(text) == 16 else float(text)
