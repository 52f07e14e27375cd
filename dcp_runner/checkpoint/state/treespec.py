"""State trees as data: a JSON skeleton with typed values, and named tensors. No pickle, no import by a stored name.

Plain JSON carries None, bool, str, small ints, ordinary floats, lists and dicts with text keys. What JSON lacks is
an object with the key `$` (a user's dict that has this key is written as pairs):

    {"$": "tensor"}                          the tensor named by its path; "v": the name where it is tied
    {"$": "int", "v": "0x..."}               beyond 2**53
    {"$": "float", "v": "nan"}               nan, inf, -inf, -0.0, or the 64 bits of another nan in hex
    {"$": "str" | "bytes" | "bytearray", "v": "..."}  base64 (text with lone surrogates; bytes)
    {"$": "tuple" | "size", "v": [...]}      a tuple, a torch.Size
    {"$": "namedtuple", "fields": [...], "v": [...]}  a tuple, or of the live value's type where that has these fields
    {"$": "deque", "maxlen": 5, "v": [...]}  a collections.deque
    {"$": "set" | "frozenset", "v": [...]}   its members, sorted by their JSON
    {"$": "dict", "v": [[key, value], ...]}  with keys that are not all text
    {"$": "OrderedDict" | "Counter", ...}    as dict, with "metadata" where torch's modules put it
    {"$": "defaultdict", "of": "list", ...}  as dict, with a factory from a closed table
    {"$": "mappingproxy", "v": ...}          as dict
    {"$": "enum", "v": value}                the type is taken from the live state
    {"$": "ndarray", "dtype": "<f4", ...}    the tensor named by its path
    {"$": "npscalar", "dtype": "<f4", "v": hex of the bytes}
    {"$": "bytesio"}                         an io.BytesIO: the tensor of bytes named by its path
    {"$": "date", "v": [2026, 2, 28]}        what a value is made from, in the order of its constructor's arguments:
                                             complex, Decimal, Fraction, range, slice, date, time, datetime (fold comes
                                             last), timedelta, timezone, Path, PurePosixPath, PureWindowsPath, UUID,
                                             device ("cuda:1"), torch (a dtype, layout, memory format or qscheme:
                                             "torch.float32")

A path is written as a JSON pointer (RFC 6901) without its first slash; a key that is not text stands as `~2` and
its JSON text.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from typing import Any

Json = Any

TAG = "$"
ROOT = "~"
"""Path of the state itself; no step of a path looks like it."""
DICTS = ("dict", "OrderedDict", "Counter", "defaultdict", "mappingproxy")
"""Kinds of dicts."""
FACTORIES: dict[str, Any] = {
    "int": int,
    "float": float,
    "bool": bool,
    "str": str,
    "list": list,
    "dict": dict,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "bytes": bytes,
    "bytearray": bytearray,
    "complex": complex,
    "deque": deque,
    "Counter": Counter,
    "OrderedDict": OrderedDict,
    "none": None,
}


def fields_of(value: Any) -> tuple[str, ...]:
    """The names of a namedtuple's items; of anything else none."""
    return tuple(getattr(type(value), "_fields", ())) if isinstance(value, tuple) else ()
