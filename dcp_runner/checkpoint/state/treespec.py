"""The tree spec of a state: its containers and its leaves other than tensors, as JSON. No pickle, no import by name.

None, bool, str, small ints, ordinary floats, lists and dicts with text keys are themselves in JSON. Anything else is an
object with the key `$` (a user's dict that has this key is written as pairs):

    {"$": "tensor"}                          the tensor named by this path, or by "v" if it is tied to that one
    {"$": "int", "v": "0x..."}               beyond 2**53
    {"$": "float", "v": "nan"}               nan, inf, -inf, -0.0, or the 64 bits of another nan in hex
    {"$": "str" | "bytes" | "bytearray", "v": "..."}  base64 (text with lone surrogates; bytes)
    {"$": "tuple" | "size", "v": [...]}      a tuple, a torch.Size
    {"$": "namedtuple", "fields": [...], "v": [...]}  a tuple; or the live value's type, if that has these fields
    {"$": "deque", "maxlen": 5, "v": [...]}  a collections.deque
    {"$": "set" | "frozenset", "v": [...]}   its members, sorted by their JSON
    {"$": "dict", "v": [[key, value], ...]}  with keys that are not all text
    {"$": "OrderedDict" | "Counter", ...}    as dict; with "metadata" if it is a module's state_dict
    {"$": "defaultdict", "of": "list", ...}  as dict, with a factory from a closed table
    {"$": "mappingproxy", "v": ...}          as dict
    {"$": "enum", "v": value}                the type is taken from the live state
    {"$": "ndarray", "dtype": "<f4", ...}    an array: the tensor named by this path
    {"$": "npscalar", "dtype": "<f4", "v": hex of the bytes}
    {"$": "bytesio"}                         an io.BytesIO: the tensor of bytes named by this path
    {"$": "date", "v": [2026, 2, 28]}        the arguments of a constructor, in its order, for
                                             complex, Decimal, Fraction, range, slice, date, time, datetime (fold comes
                                             last), timedelta, timezone, Path, PurePosixPath, PureWindowsPath, UUID,
                                             device ("cuda:1"), torch (a dtype, layout, memory format or qscheme:
                                             "torch.float32")

A path is a JSON pointer (RFC 6901) without its first slash; a key that is not text is written as `~2` and its JSON.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from typing import Any

Json = Any

TAG = "$"
ROOT = "~"
"""The path of the root; it differs from every other path."""
DICTS = ("dict", "OrderedDict", "Counter", "defaultdict", "mappingproxy")
"""The tags of dicts."""
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
"""The default factories that a defaultdict may have."""


def fields_of(value: Any) -> tuple[str, ...]:
    """The field names of a namedtuple; none for any other value."""
    return tuple(getattr(type(value), "_fields", ())) if isinstance(value, tuple) else ()
