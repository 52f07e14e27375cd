"""State trees as data: a JSON skeleton with typed values, and named tensors. No pickle, no import by a stored name.

Plain JSON carries None, bool, str, small ints, ordinary floats, lists and dicts with text keys. What JSON lacks is
an object with the key `$` (a user's dict that has this key is written as pairs):

    {"$": "tensor"}                          the tensor named by its path; "v": the name where it is tied
    {"$": "int", "v": "0x..."}               beyond 2**53
    {"$": "float", "v": "nan"}               nan, inf, -inf, -0.0, or the 64 bits of another nan in hex
    {"$": "str" | "bytes", "v": "..."}       base64 (text with lone surrogates; bytes)
    {"$": "tuple" | "size", "v": [...]}      a tuple, a torch.Size
    {"$": "dict", "v": [[key, value], ...]}  with keys that are not all text
    {"$": "OrderedDict" | "Counter", ...}    as dict, with "metadata" where torch's modules put it
    {"$": "defaultdict", "of": "list", ...}  as dict, with a factory from a closed table
    {"$": "enum", "v": value}                the type is taken from the live state
    {"$": "ndarray", "dtype": "<f4", ...}    the tensor named by its path
    {"$": "npscalar", "dtype": "<f4", "v": hex of the bytes}

A path is written as a JSON pointer (RFC 6901) without its first slash; a key that is not text stands as `~2` and
its JSON text.
"""

from __future__ import annotations

from typing import Any

Json = Any

TAG = "$"
ROOT = "~"
"""Path of the state itself; no step of a path looks like it."""
DICTS = ("dict", "OrderedDict", "Counter", "defaultdict")
"""Kinds of dicts."""
FACTORIES: dict[str, Any] = {
    "int": int,
    "float": float,
    "bool": bool,
    "str": str,
    "list": list,
    "dict": dict,
    "none": None,
}
