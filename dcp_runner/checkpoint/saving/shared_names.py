"""Tensors that several copies of a component hold under one name, though the copies are parts of one state.

A buffer that every pipeline stage has is in several copies. Another topology makes one tensor of it, so it must be the
same in all of them. Two sums over the tensors that are not sharded, one of their names and one of their digests too,
show in 32 bytes that two copies hold the same tensors. Where the names differ, the names themselves are compared, once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import xxhash

from dcp_runner.checkpoint.config import Validation
from dcp_runner.checkpoint.saving.prepare import PreparedComponent
from dcp_runner.checkpoint.stateful import Reshardable
from dcp_runner.checkpoint.sync.comm import Comm

Sums = Sequence[str]
"""Of the names, and of the names with their digests."""


def shared_name_sums(component: PreparedComponent) -> Sums | None:
    """Those of this rank; None where copies need not agree, or there is only one."""
    bound = component.bound
    parts = (isinstance(bound.stateful, Reshardable) or bound.sharded_along) and not bound.resolved.independent
    if not parts or len(bound.copies) == 1 or not bound.own_copy.equal or bound.validation is Validation.none:
        return None
    table = _table(component)
    return [_sum(table), _sum(f"{path} {digest}" for path, digest in table.items())]


def conflicts(component: PreparedComponent, sums: Sequence[Sums | None], comm: Comm) -> list[str]:
    """What is wrong with a component, the same on every rank. Called by all ranks, with the sums of all of them."""
    bound = component.bound
    by_copy = {copy: tuple(found) for copy in bound.copies if (found := sums[copy.holders[0]])}
    names = frozenset(of_names for of_names, _ in by_copy.values())
    if len(set(by_copy.values())) == len(names) and (len(names) <= 1 or names in bound.disjoint_names):
        return []
    own = _table(component) if comm.rank == bound.own_copy.holders[0] else {}
    tables = comm.exchange("verify", own)
    holders: dict[str, dict[str, list[str]]] = {}
    for copy in by_copy:
        for path, digest in tables[copy.holders[0]].items():
            holders.setdefault(path, {}).setdefault(digest, []).append(copy.name)
    if all(len(copies) == 1 for found in holders.values() for copies in found.values()):
        bound.disjoint_names.add(names)
    different = {path: found for path, found in holders.items() if len(found) > 1}
    return [_message(bound.key, different)] if different else []


def _table(component: PreparedComponent) -> dict[str, str]:
    """Path -> digest of the tensors that are not sharded."""
    flat = component.flat
    return {path: component.digests[path].whole for path in flat.tensors if not flat.shard_groups.get(path)}


def _sum(texts: Iterable[str]) -> str:
    total = sum(xxhash.xxh3_128_intdigest(text.encode("utf-8", "surrogatepass")) for text in texts)
    return f"{total % 2**128:x}"


def _message(key: str, different: Mapping[str, Mapping[str, Sequence[str]]]) -> str:
    path, found = next(iter(different.items()))
    first, second, *_ = (copies[0] for copies in found.values())
    more = f" (and {len(different) - 1} more tensors)" if len(different) > 1 else ""
    return (
        f"component {key!r}: tensor {path!r}{more} has different values in copies {first!r} and {second!r}, which are "
        f"parts of one state, so no other topology could load it. Give it different names there; or declare "
        f"sharing.{key}=per_rank if each rank has a state of its own"
    )
