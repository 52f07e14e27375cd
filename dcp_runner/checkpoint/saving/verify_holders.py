"""Are the holders of a copy equal, and do the parts of each tensor make up the whole tensor? One small exchange where
they do; where not, as much as the level can say.

Every holder sends one digest of each component (16 bytes, whatever its size; one for each sharing, where some of its
tensors are shared more widely than others) and the sums of tiling.py, shared_names.py and mesh_replicas.py, and every
rank judges all copies alike. Only a difference costs more: `tensor` then compares the digests of all leaves, `full`
also the values of the differing ones, in bounded memory; `none` compares only the names, shapes and parts of tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dcp_runner.checkpoint.bind import BoundComponent
from dcp_runner.checkpoint.config import Validation
from dcp_runner.checkpoint.errors import ReplicaMismatchError, TilingError
from dcp_runner.checkpoint.saving.mesh_replicas import drifted, replica_sum
from dcp_runner.checkpoint.saving.prepare import PreparedComponent
from dcp_runner.checkpoint.saving.shared_names import conflicts, shared_name_sums
from dcp_runner.checkpoint.saving.tiling import MODULUS, tiling_sum, untiled
from dcp_runner.checkpoint.saving.value_diff import compare_values
from dcp_runner.checkpoint.sharing import parse_sharing
from dcp_runner.checkpoint.state.box import Box
from dcp_runner.checkpoint.state.fingerprints import LeafFingerprint, combined_digest, equivalent
from dcp_runner.checkpoint.state.treespec import Json
from dcp_runner.checkpoint.sync.claims import minority
from dcp_runner.checkpoint.sync.comm import Comm
from dcp_runner.checkpoint.topology import Copy, Topology
from dcp_runner.common.ranks import rank_text

SHOWN = 8
"""Leaves that a message names."""


def verify(prepared: Sequence[PreparedComponent], comm: Comm) -> None:
    """Check what the ranks are about to write. Raises CheckpointError on all ranks: from a ReplicaMismatchError where
    holders of a copy differ, on each rank outside the majority, or where copies that are parts of one state do; from a
    TilingError where the parts of a tensor are not the whole tensor.
    """
    tables = {component.bound.key: component.by_sharing() for component in prepared}
    own = {component.bound.key: _sums(component, tables[component.bound.key], comm.rank) for component in prepared}
    everyone = comm.exchange("verify", own)
    differing: list[str] = []
    parts: list[str] = []
    for component in prepared:
        key = component.bound.key
        claims = [of_rank[key] for of_rank in everyone]
        digests = [claim["layers"] for claim in claims]
        unequal = _unequal_sharings(component, digests) if component.bound.has_equal_holders else []
        for sharing in unequal:
            differing += _examine(component, sharing, tables[key].get(sharing, {}), comm)
        if not unequal:
            differing += conflicts(component, [claim["namesakes"] for claim in claims], comm)
        if sum(int(claim["replicas"], 16) for claim in claims) % MODULUS:
            differing += drifted(component, comm)
        if sum(int(claim["tiling"], 16) for claim in claims) % MODULUS:
            parts += _examine_parts(component, comm)

    def raise_own() -> None:
        if differing:
            raise ReplicaMismatchError("; ".join(differing))
        if parts:
            raise TilingError("; ".join(parts))

    comm.agree("verify", raise_own)


def _sums(component: PreparedComponent, tables: Mapping[str, Mapping[str, LeafFingerprint]], rank: int) -> Json:
    """What a rank sends of a component: its digest for each sharing, and its summands of the sums over all ranks."""
    return {
        "layers": {sharing: combined_digest(table) for sharing, table in tables.items()},
        "tiling": f"{tiling_sum(component.flat, rank):x}",
        "namesakes": shared_name_sums(component),
        "replicas": f"{replica_sum(component, rank):x}",
    }


def verify_declared(bound: Sequence[BoundComponent], topology: Topology, comm: Comm) -> None:
    """Compare what the ranks have declared: topology, components, their order. Raises CheckpointError on all ranks.

    Every rank plans for all of them from it, so a difference would lose data or wait for ever.
    """
    claims = {"the topology": f"{topology.mesh}, nodes {topology.nodes}"}
    claims |= {f"component {part.key!r}": f"number {n}, {part.declaration}" for n, part in enumerate(bound, 1)}
    comm.require_equal("open", claims)


def _examine_parts(component: PreparedComponent, comm: Comm) -> list[str]:
    """What is wrong with the parts of a component's tensors, the same on every rank. Called by all ranks."""
    flat = component.flat
    boxes = {path: flat.boxes.get(path) or Box.full(tuple(tensor.shape)) for path, tensor in flat.tensors.items()}
    everyone = comm.exchange("verify", {path: [box.shape, box.offsets, box.sizes] for path, box in boxes.items()})
    held: dict[str, dict[Box, list[int]]] = {}
    for rank, of_rank in enumerate(everyone):
        for path, plain in of_rank.items():
            held.setdefault(path, {}).setdefault(Box(*map(tuple, plain)), []).append(rank)
    return [
        f"component {component.bound.key!r}: tensor {text}. Each rank must hold its own part; was the state made under "
        "another rank or process group than this save runs in?"
        for text in untiled(held)
    ]


def _unequal_sharings(component: PreparedComponent, digests: Sequence[Mapping[str, str]]) -> list[str]:
    """The sharings for which the holders of a copy have different digests, the same on every rank."""
    topology, sharings = component.bound.topology, sorted({sharing for of_rank in digests for sharing in of_rank})
    return [
        sharing
        for sharing in sharings
        if any(
            len({digests[rank].get(sharing) for rank in copy.holders}) > 1
            for copy in topology.copies(parse_sharing(sharing))
        )
    ]


def _examine(component: PreparedComponent, sharing: str, table: Mapping[str, LeafFingerprint], comm: Comm) -> list[str]:
    """This rank's account of a sharing for which holders differ: nothing, if it is with the majority. Called by all
    ranks.
    """
    bound, copies = component.bound, component.bound.topology.copies(parse_sharing(sharing))
    copy = next(copy for copy in copies if comm.rank in copy.holders)
    plain = comm.exchange("verify", {path: [leaf.exact, leaf.number, leaf.python] for path, leaf in table.items()})
    leaves = {rank: {path: LeafFingerprint(*leaf) for path, leaf in plain[rank].items()} for rank in copy.holders}
    differing = differing_leaves(leaves)
    unchecked = "the names, shapes or parts of tensors: " if bound.validation is Validation.none else ""
    if bound.validation is Validation.quick:
        outliers = tuple(sorted({rank for ranks in differing.values() for rank in ranks}))
        return [_message(bound, sharing, copy, outliers, "")] if comm.rank in outliers else []
    full = bound.validation is Validation.full
    values = compare_values(copies, component.flat.tensors, differing, comm) if full else {}
    own = {path: ranks for path, ranks in differing.items() if comm.rank in ranks}
    if not own:
        return []
    shown = [f"{path!r} on rank {rank_text(ranks)}{values.get(path, '')}" for path, ranks in list(own.items())[:SHOWN]]
    more = f" and {len(own) - SHOWN} more" if len(own) > SHOWN else ""
    outliers = tuple(sorted({rank for ranks in own.values() for rank in ranks}))
    return [_message(bound, sharing, copy, outliers, f"in {unchecked}" + ", ".join(shown) + more)]


def differing_leaves(leaves: Mapping[int, Mapping[str, LeafFingerprint]]) -> dict[str, tuple[int, ...]]:
    """Path -> the outlier ranks, for the paths at which the holders' leaves are not all the same. A missing path
    differs from any.
    """
    found: dict[str, tuple[int, ...]] = {}
    for path in sorted({path for table in leaves.values() for path in table}):
        seen: list[LeafFingerprint | None] = []
        labels: list[tuple[int, str]] = []
        for rank, table in leaves.items():
            leaf = table.get(path)
            match = next((n for n, other in enumerate(seen) if _alike(leaf, other)), len(seen))
            if match == len(seen):
                seen.append(leaf)
            labels.append((rank, str(match)))
        if len(seen) > 1:
            found[path] = minority(labels)
    return found


def _alike(leaf: LeafFingerprint | None, other: LeafFingerprint | None) -> bool:
    return leaf is other if leaf is None or other is None else equivalent(leaf, other)


def _message(bound: BoundComponent, sharing: str, copy: Copy, outliers: Sequence[int], where: str) -> str:
    ranks = f"rank{'s' if len(outliers) > 1 else ''} {rank_text(outliers)}"
    intended = f"declare sharing.{bound.key}=per_rank or per_group:<axes>"
    if sharing != str(bound.resolved.sharing):
        intended = "move it to a per_rank component of its own: next to sharded tensors, everything else must be equal"
    return (
        f"component {bound.key!r}, copy {copy.name!r} (ranks {rank_text(copy.holders)}): shared as "
        f"{sharing}, so all must hold the same, but {ranks} "
        f"differ{'s' if len(outliers) == 1 else ''}{' ' + where if where else ''}. "
        f"If that is intended, {intended}; "
        "if not, the replicas have drifted apart"
    )
