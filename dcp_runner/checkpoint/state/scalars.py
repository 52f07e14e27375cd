"""Leaves that are stored as JSON: numbers, text, bytes, dates, paths and the like.

A closed table in both directions: nothing that a checkpoint names is imported.
"""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any
from uuid import UUID

import numpy as np
import torch

from dcp_runner.checkpoint.errors import UnsupportedStateError
from dcp_runner.checkpoint.state.treespec import TAG, Json

EXACT_INT = 2**53
"""The largest int that every reader of JSON keeps exact."""


def encode(value: Any) -> Json:
    """The JSON of a value, tagged with its kind if JSON has no such type.

    Raises UnsupportedStateError, with the type, for a value that is not in the table.
    """
    if type(value) in _BASIC:
        return _BASIC[type(value)](value)
    if isinstance(value, np.generic):
        return _encode_numpy(value)
    kind = _COMPOUNDS.get(type(value))
    if kind is None:
        raise UnsupportedStateError(f"type {type_name(value)}")
    try:
        return {TAG: kind.tag, "v": [encode(part) for part in kind.parts(value)]}
    except UnsupportedStateError as error:
        raise UnsupportedStateError(f"type {type_name(value)} with a value of {error}") from error


def decode(value: Json) -> Any:
    """The inverse, for JSON whose tag `knows` has. Raises ValueError or RuntimeError if this torch lacks the value."""
    if not isinstance(value, dict):
        return value
    if value[TAG] in _DECODERS:
        return _DECODERS[value[TAG]](value)
    return _BY_TAG[value[TAG]].make(*[decode(part) for part in value["v"]])


def knows(tag: str) -> bool:
    """Whether this is the tag of a value in the table."""
    return tag in _DECODERS or tag in _BY_TAG


def type_name(value: Any) -> str:
    """The type's full name, such as `torch.dtype`."""
    return f"{type(value).__module__}.{type(value).__qualname__}"


def is_text(value: str) -> bool:
    """Whether JSON can hold the text: it has no lone surrogates."""
    return value.isascii() or not any(0xD800 <= ord(letter) <= 0xDFFF for letter in value)


def _encode_int(value: int) -> Json:
    return value if abs(value) <= EXACT_INT else {TAG: "int", "v": hex(value)}


def _encode_float(value: float) -> Json:
    if math.isfinite(value) and (value or math.copysign(1, value) > 0):
        return value
    bits = struct.pack(">d", value)
    text = bits.hex() if math.isnan(value) and bits != struct.pack(">d", math.nan) else str(value)
    return {TAG: "float", "v": text}


def _decode_float(text: str) -> float:
    return float(struct.unpack(">d", bytes.fromhex(text))[0]) if len(text) == 16 else float(text)


def _encode_text(value: str) -> Json:
    return value if is_text(value) else _base64("str", value.encode("utf-8", "surrogatepass"))


def _encode_numpy(value: np.generic) -> Json:
    if value.dtype.kind not in "biufcmM" or value.dtype.itemsize > 16 or value.dtype.char in "gG":
        raise UnsupportedStateError(f"numpy scalar of dtype {value.dtype}")
    return {TAG: "npscalar", "dtype": value.dtype.str, "v": value.tobytes().hex()}


def _base64(tag: str, value: bytes | bytearray) -> Json:
    return {TAG: tag, "v": base64.b64encode(value).decode()}


_BASIC: dict[type, Callable[[Any], Json]] = {
    type(None): lambda value: value,
    bool: lambda value: value,
    int: _encode_int,
    float: _encode_float,
    str: _encode_text,
    bytes: lambda value: _base64("bytes", value),
    bytearray: lambda value: _base64("bytearray", value),
}

_DECODERS: dict[str, Callable[[dict[str, Json]], Any]] = {
    "int": lambda value: int(value["v"], 16),
    "float": lambda value: _decode_float(value["v"]),
    "str": lambda value: base64.b64decode(value["v"]).decode("utf-8", "surrogatepass"),
    "bytes": lambda value: base64.b64decode(value["v"]),
    "bytearray": lambda value: bytearray(base64.b64decode(value["v"])),
    "npscalar": lambda value: np.frombuffer(bytes.fromhex(value["v"]), np.dtype(value["dtype"]))[0],
}


@dataclass(frozen=True)
class _Compound:
    """A kind of value that is stored as the arguments of its constructor."""

    tag: str
    parts: Callable[[Any], Sequence[Any]]
    make: Callable[..., Any]


_TORCH_KINDS = (torch.dtype, torch.layout, torch.memory_format, torch.qscheme)
_OF_TORCH = {str(value): value for value in vars(torch).values() if isinstance(value, _TORCH_KINDS)}


def _of_torch(name: str) -> Any:
    if name not in _OF_TORCH:
        raise ValueError(f"the checkpoint has {name}, which this version of torch lacks")
    return _OF_TORCH[name]


def _text(value: Any) -> Sequence[Any]:
    return [str(value)]


def _clock(value: time | datetime) -> Sequence[Any]:
    return [value.hour, value.minute, value.second, value.microsecond, value.tzinfo, value.fold]


_COMPOUNDS: dict[type, _Compound] = {
    complex: _Compound("complex", lambda value: [value.real, value.imag], complex),
    Decimal: _Compound("Decimal", _text, Decimal),
    Fraction: _Compound("Fraction", lambda value: [value.numerator, value.denominator], Fraction),
    range: _Compound("range", lambda value: [value.start, value.stop, value.step], range),
    slice: _Compound("slice", lambda value: [value.start, value.stop, value.step], slice),
    date: _Compound("date", lambda value: [value.year, value.month, value.day], date),
    time: _Compound("time", _clock, lambda *parts: time(*parts[:-1], fold=parts[-1])),
    datetime: _Compound(
        "datetime",
        lambda value: [value.year, value.month, value.day, *_clock(value)],
        lambda *parts: datetime(*parts[:-1], fold=parts[-1]),
    ),
    timedelta: _Compound("timedelta", lambda value: [value.days, value.seconds, value.microseconds], timedelta),
    timezone: _Compound("timezone", lambda value: value.__getinitargs__(), timezone),
    type(Path()): _Compound("Path", _text, Path),
    PurePosixPath: _Compound("PurePosixPath", _text, PurePosixPath),
    PureWindowsPath: _Compound("PureWindowsPath", _text, PureWindowsPath),
    UUID: _Compound("UUID", _text, UUID),
    torch.device: _Compound("device", _text, torch.device),
    **{kind: _Compound("torch", _text, _of_torch) for kind in _TORCH_KINDS},
}
_BY_TAG = {kind.tag: kind for kind in _COMPOUNDS.values()}
