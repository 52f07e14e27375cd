"""Skeletons of several copies as one: dicts are united, everything else must be equal. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dcp_runner.checkpoint.state.treespec import DICTS, TAG, Json

Keys = tuple[str, ...]


def merge(skeletons: Sequence[Json]) -> Json:
    """One skeleton that has what any of them has.

    Raises ValueError that names the first few places at which two copies hold different values.
    """
    conflicts: list[str] = []
    whole = skeletons[0]
    for other in skeletons[1:]:
        whole = _merge(whole, other, (), conflicts)
    if conflicts:
        raise ValueError(f"its copies hold different values at {', '.join(conflicts[:4])}")
    return whole


def _merge(one: Json, other: Json, at: Keys, conflicts: list[str]) -> Json:
    if _kind(one) == _kind(other) in DICTS and isinstance(_body(one), dict) and isinstance(_body(other), dict):
        mine, theirs = _body(one), _body(other)
        both = {k: _merge(v, theirs[k], (*at, k), conflicts) if k in theirs else v for k, v in mine.items()}
        both |= {key: value for key, value in theirs.items() if key not in mine}
        if TAG not in one:
            return both
        merged = one | {"v": both}
        if "metadata" in one and "metadata" in other:
            merged["metadata"] = _merge(one["metadata"], other["metadata"], (*at, "_metadata"), conflicts)
        return merged
    if repr(one) == repr(other):  # True is not 1, and 1 is not 1.0
        return one
    if _kind(one) == _kind(other) == "tensor":  # tied in one copy and not in another: by any name it is the same
        return {TAG: "tensor"}
    conflicts.append("/".join(at) or "the state itself")
    return one


def select(skeleton: Json, wanted: Callable[[Keys], bool], at: Keys = ()) -> Json:
    """Without the items of dicts whose keys, from the root on, are not wanted."""
    if _kind(skeleton) not in DICTS or not isinstance(_body(skeleton), dict):
        return skeleton
    kept = {k: select(v, wanted, (*at, k)) for k, v in _body(skeleton).items() if wanted((*at, k))}
    return skeleton | {"v": kept} if TAG in skeleton else kept


def _kind(value: Json) -> str:
    return str(value.get(TAG, "dict")) if isinstance(value, dict) else ""


def _body(value: Json) -> Json:
    return value["v"] if TAG in value else value
