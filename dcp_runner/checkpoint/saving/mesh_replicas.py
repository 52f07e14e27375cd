"""Parts of tensors that a DTensor's mesh replicates on several ranks although the topology does not: a flat topology
may be given for a mesh of two dimensions. Such parts are in several copies, so no holders are compared; but a load
takes any of them.

Every rank adds up the hashed digests of these parts, and the first rank of each line of the mesh subtracts its own once
for each other rank. The sum over all ranks is 0 where all are equal.
"""

from __future__ import annotations

from collections.abc import Iterator

import xxhash

from dcp_runner.checkpoint.config import Validation
from dcp_runner.checkpoint.saving.prepare import PreparedComponent
from dcp_runner.checkpoint.saving.tiling import MODULUS
from dcp_runner.checkpoint.state.dtensor import Ranks
from dcp_runner.checkpoint.sync.comm import Comm
from dcp_runner.common.ranks import rank_text


def replica_sum(component: PreparedComponent, rank: int) -> int:
    """What a rank adds to the sum over all ranks, modulo 2**128."""
    total = 0
    for path, line in _not_compared(component, rank):
        data = f"{path} {component.flat.boxes[path]} {component.digests[path].whole}".encode("utf-8", "surrogatepass")
        total += xxhash.xxh3_128_intdigest(data) * (1 - len(line) if rank == min(line) else 1)
    return total % MODULUS


def drifted(component: PreparedComponent, comm: Comm) -> list[str]:
    """What is wrong with the parts of a component, the same on every rank. Called by all ranks."""
    own = {
        path: [str(component.flat.boxes[path]), component.digests[path].whole]
        for path, _ in _not_compared(component, comm.rank)
    }
    holders: dict[tuple[str, str], dict[str, list[int]]] = {}
    for rank, table in enumerate(comm.exchange("verify", own)):
        for path, (box, digest) in table.items():
            holders.setdefault((path, box), {}).setdefault(digest, []).append(rank)
    different = {path: found for (path, _), found in holders.items() if len(found) > 1}
    if not different:
        return []
    path, found = next(iter(different.items()))
    more = f" (and {len(different) - 1} more tensors)" if len(different) > 1 else ""
    sides = " and ".join(f"rank {rank_text(ranks)}" for ranks in found.values())
    return [
        f"component {component.bound.key!r}: by its mesh {path!r}{more} has the same part on several ranks, but its "
        f"values differ between {sides}: the replicas have drifted apart"
    ]


def _not_compared(component: PreparedComponent, rank: int) -> Iterator[tuple[str, Ranks]]:
    """Tensors with the ranks along a mesh dimension that hold the same part, and are in different copies."""
    bound, flat = component.bound, component.flat
    if bound.validation is Validation.none or bound.resolved.independent:
        return
    for path, lines in flat.replica_groups.items():
        if path in flat.tensors:
            holders = {*bound.topology.copy_of(component.shared[path], rank).holders}
            yield from ((path, line) for line in lines if rank in line and not holders.issuperset(line))
