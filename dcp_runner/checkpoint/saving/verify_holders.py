"""Are the holders of a copy equal, and are the parts of each tensor the whole tensor? One small exchange where that is
so; where it is not, as much as the level can say.

Every holder sends one digest of each component (16 bytes, whatever its size; one for each layer, where some of its
tensors are held more widely than others) and the sums of tiling.py and namesakes.py, and every rank judges all copies
alike. Only a difference costs more: `tensor` then compares the digests of all leaves, `full` also the values of the
differing ones, in bounded memory; `none` compares only the names, shapes and places of tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dcp_runner.checkpoint.bind import BoundComponent
from dcp_runner.checkpoint.config import Validation
from dcp_runner.checkpoint.errors import ReplicaMismatchError, TilingError
from dcp_runner.checkpoint.saving.mesh_replicas import drifted, replica_sum
from dcp_runner.checkpoint.saving.prepare import PreparedComponent
from dcp_runner.checkpoint.saving.shared_names import conflicts, namesake_sums
from dcp_runner.checkpoint.saving.tiling import MODULUS, tiling_sum, untiled
from dcp_runner.checkpoint.saving.value_diff import compare_values
from dcp_runner.checkpoint.sharing import parse_sharing
from dcp_runner.checkpoint.state.box import Box
from dcp_runner.checkpoint.state.fingerprints import LeafFingerprint, combined_digest, equivalent
from dcp_runner.checkpoint.sync.claims import minority
from dcp_runner.checkpoint.sync.comm import Comm
from dcp_runner.checkpoint.topology import Copy, Topology
from dcp_runner.common.ranks import rank_text

TOLD = 8
"""Leaves that a message names."""


def verify(staged: Sequence[PreparedComponent], comm: Comm) -> None:
    """Check what the ranks are about to write. Raises CheckpointError on all ranks: from a
    ReplicaMismatchError where holders
    of a copy differ, on each rank that is not with the majority, or where copies that are parts of one state do; from
    a TilingError where the parts of a tensor are not the whole tensor.
    """
    layers = {one.bound.key: one.layers() for one in staged}
    mine = {
        one.bound.key: {
            "layers": {text: combined_digest(table) for text, table in layers[one.bound.key].items()},
            "tiling": f"{tiling_sum(one.flat, comm.rank):x}",
            "namesakes": namesake_sums(one),
            "replicas": f"{replica_sum(one, comm.rank):x}",
        }
        for one in staged
    }
    everyone = comm.exchange("verify", mine)
    differing: list[str] = []
    parts: list[str] = []
    for one in staged:
        claims = [claims_of[one.bound.key] for claims_of in everyone]
        told = [claim["layers"] for claim in claims]
        apart = _layers_apart(one, told) if one.bound.has_equal_holders else []
        for text in apart:
            differing += _examine(one, text, layers[one.bound.key].get(text, {}), comm)
        if not apart:
            differing += conflicts(one, [claim["namesakes"] for claim in claims], comm)
        if sum(int(claim["replicas"], 16) for claim in claims) % MODULUS:
            differing += drifted(one, comm)
        if sum(int(claim["tiling"], 16) for claim in claims) % MODULUS:
            parts += _examine_parts(one, comm)

    def raise_own() -> None:
        if differing:
            raise ReplicaMismatchError("; ".join(differing))
        if parts:
            raise TilingError("; ".join(parts))

    comm.agree("verify", raise_own)


def verify_declared(bound: Sequence[BoundComponent], topology: Topology, comm: Comm) -> None:
    """Compare what the ranks have declared: topology, components, their order. Raises CheckpointError on all ranks.

    Every rank plans for all of them from it, so a difference would lose data or wait for ever.
    """
    claims = {"the topology": f"{topology.mesh}, nodes {topology.nodes}"}
    claims |= {f"component {part.key!r}": f"number {n}, {part.declaration}" for n, part in enumerate(bound, 1)}
    comm.require_equal("open", claims)


def _examine_parts(one: PreparedComponent, comm: Comm) -> list[str]:
    """What is wrong with the parts of a component's tensors, the same on every rank. Called by all ranks."""
    flat = one.flat
    boxes = {path: flat.boxes.get(path) or Box.full(tuple(tensor.shape)) for path, tensor in flat.tensors.items()}
    everyone = comm.exchange("verify", {path: [box.shape, box.offsets, box.sizes] for path, box in boxes.items()})
    held: dict[str, dict[Box, list[int]]] = {}
    for rank, of_rank in enumerate(everyone):
        for path, plain in of_rank.items():
            held.setdefault(path, {}).setdefault(Box(*map(tuple, plain)), []).append(rank)
    return [
        f"component {one.bound.key!r}: tensor {text}. Each rank must hold its own part; was the state made under "
        "another rank or process group than this save runs in?"
        for text in untiled(held)
    ]


def _layers_apart(one: PreparedComponent, told: Sequence[Mapping[str, str]]) -> list[str]:
    """The layers of a component in which the holders of a copy have different digests, the same on every rank."""
    topology, texts = one.bound.topology, sorted({text for of_rank in told for text in of_rank})
    return [
        text
        for text in texts
        if any(
            len({told[rank].get(text) for rank in copy.holders}) > 1 for copy in topology.copies(parse_sharing(text))
        )
    ]


def _examine(one: PreparedComponent, text: str, table: Mapping[str, LeafFingerprint], comm: Comm) -> list[str]:
    """What this rank has to say about a layer whose holders differ: nothing, if it is with the majority. Called by all
    ranks.
    """
    bound, copies = one.bound, one.bound.topology.copies(parse_sharing(text))
    copy = next(copy for copy in copies if comm.rank in copy.holders)
    told = comm.exchange("verify", {path: [entry.exact, entry.number, entry.python] for path, entry in table.items()})
    leaves = {rank: {path: LeafFingerprint(*entry) for path, entry in told[rank].items()} for rank in copy.holders}
    differing = differing_leaves(leaves)
    unchecked = "the names, shapes or places of tensors: " if bound.validation is Validation.none else ""
    if bound.validation is Validation.quick:
        odd = tuple(sorted({rank for ranks in differing.values() for rank in ranks}))
        return [_message(bound, text, copy, odd, "")] if comm.rank in odd else []
    full = bound.validation is Validation.full
    values = compare_values(copies, copy, one.flat.tensors, differing, comm) if full else {}
    own = {path: odd for path, odd in differing.items() if comm.rank in odd}
    if not own:
        return []
    shown = [f"{path!r} on rank {rank_text(odd)}{values.get(path, '')}" for path, odd in list(own.items())[:TOLD]]
    more = f" and {len(own) - TOLD} more" if len(own) > TOLD else ""
    odd = tuple(sorted({rank for ranks in own.values() for rank in ranks}))
    return [_message(bound, text, copy, odd, f"in {unchecked}" + ", ".join(shown) + more)]


def differing_leaves(leaves: Mapping[int, Mapping[str, LeafFingerprint]]) -> dict[str, tuple[int, ...]]:
    """Path -> odd ranks out, for the paths at which the holders' entries are not all the same. A missing path
    differs from any.
    """
    found: dict[str, tuple[int, ...]] = {}
    for path in sorted({path for table in leaves.values() for path in table}):
        seen: list[LeafFingerprint | None] = []
        labels: list[tuple[int, str]] = []
        for rank, table in leaves.items():
            entry = table.get(path)
            match = next((n for n, other in enumerate(seen) if _alike(entry, other)), len(seen))
            if match == len(seen):
                seen.append(entry)
            labels.append((rank, str(match)))
        if len(seen) > 1:
            found[path] = minority(labels)
    return found


def _alike(one: LeafFingerprint | None, other: LeafFingerprint | None) -> bool:
    return one is other if one is None or other is None else equivalent(one, other)


def _message(bound: BoundComponent, sharing: str, copy: Copy, odd: Sequence[int], where: str) -> str:
    ranks = f"rank{'s' if len(odd) > 1 else ''} {rank_text(odd)}"
    intended = f"declare sharing.{bound.key}=per_rank or per_group:<axes>"
    if sharing != str(bound.resolved.sharing):
        intended = "keep it in a component of its own that is per_rank: beside tensors that are cut all else is equal"
    return (
        f"component {bound.key!r}, copy {copy.name!r} (ranks {rank_text(copy.holders)}): shared as "
        f"{sharing}, so all must hold the same, but {ranks} "
        f"differ{'s' if len(odd) == 1 else ''}{' ' + where if where else ''}. "
        f"If that is intended, {intended}; "
        "if not, the replicas have drifted apart"
    )
