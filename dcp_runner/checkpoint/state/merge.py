"""Merges the tree specs of several copies into one: dicts are united, all else must be equal. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dcp_runner.checkpoint.state.treespec import DICTS, TAG, Json

Keys = tuple[str, ...]
"""The path of an item in nested dicts."""


def merge(specs: Sequence[Json]) -> Json:
    """A tree spec with everything that any of them has.

    Raises ValueError that names the first few paths at which two copies have different values.
    """
    conflicts: list[str] = []
    merged = specs[0]
    for other in specs[1:]:
        merged = _merge(merged, other, (), conflicts)
    if conflicts:
        raise ValueError(f"its copies have different values at {', '.join(conflicts[:4])}")
    return merged


def _merge(a: Json, b: Json, path: Keys, conflicts: list[str]) -> Json:
    if _kind(a) == _kind(b) in DICTS and isinstance(_body(a), dict) and isinstance(_body(b), dict):
        items, others = _body(a), _body(b)
        both = {k: _merge(v, others[k], (*path, k), conflicts) if k in others else v for k, v in items.items()}
        both |= {key: value for key, value in others.items() if key not in items}
        if TAG not in a:
            return both
        merged = a | {"v": both}
        if "metadata" in a and "metadata" in b:
            merged["metadata"] = _merge(a["metadata"], b["metadata"], (*path, "_metadata"), conflicts)
        return merged
    if repr(a) == repr(b):  # True is not 1, and 1 is not 1.0
        return a
    if _kind(a) == _kind(b) == "tensor":  # tied in one copy and not in the other: the same tensor by any name
        return {TAG: "tensor"}
    conflicts.append("/".join(path) or "the state itself")
    return a


def select(spec: Json, keep: Callable[[Keys], bool], path: Keys = ()) -> Json:
    """Drop the items of dicts for whose keys, from the root on, `keep` is false."""
    if _kind(spec) not in DICTS or not isinstance(_body(spec), dict):
        return spec
    kept = {k: select(v, keep, (*path, k)) for k, v in _body(spec).items() if keep((*path, k))}
    return spec | {"v": kept} if TAG in spec else kept


def _kind(value: Json) -> str:
    return str(value.get(TAG, "dict")) if isinstance(value, dict) else ""


def _body(value: Json) -> Json:
    return value["v"] if TAG in value else value
