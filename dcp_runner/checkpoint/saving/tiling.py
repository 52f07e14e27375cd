"""Whether the parts of each tensor tile it: no element is in two parts, and none is missing.

The corners of a box, each with the sign of its mixed difference, determine the box's indicator function, and sums of
corners determine sums of indicators. So the corners of the parts of a tensor add up to those of the whole tensor
exactly where the parts tile it. Every rank adds up the hashes of its corners, and subtracts those of the whole tensors
whose first part it holds: 16 bytes for a component, whatever its size. The sum over all ranks is 0 where they tile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, product
from math import prod

import xxhash

from dcp_runner.checkpoint.state.box import Box, Shape
from dcp_runner.checkpoint.state.flatten import FlatState
from dcp_runner.common.ranks import rank_text

MODULUS = 2**128
SHOWN = 4
"""Tensors, and parts of a tensor, that a message names."""

Parts = Mapping[Box, Sequence[int]]
"""The ranks that hold each part of a tensor."""


def corners(box: Box) -> Iterator[tuple[int, Shape]]:
    """(sign, coordinates) of each corner; those of an empty box cancel each other."""
    ends = [((1, low), (-1, low + size)) for low, size in zip(box.offsets, box.sizes, strict=True)]
    for corner in product(*ends):
        yield prod(sign for sign, _ in corner), tuple(number for _, number in corner)


def tiling_sum(flat: FlatState, rank: int) -> int:
    """What a rank adds to the sum over all ranks, modulo 2**128."""
    total = 0
    for path, box in flat.boxes.items():
        total += _hashed(path, box)
        if all(rank == min(ranks) for ranks in flat.shard_groups[path]):
            total -= _hashed(path, Box.full(box.shape))
    return total % MODULUS


def _hashed(path: str, box: Box) -> int:
    name = f"{path} {box.shape}"
    return sum(
        sign * xxhash.xxh3_128_intdigest(f"{name} {corner}".encode("utf-8", "surrogatepass"))
        for sign, corner in corners(box)
    )


def untiled(tensors: Mapping[str, Parts]) -> list[str]:
    """What is wrong with the parts of each tensor, for the first few that they do not tile. Empty parts are legal, and
    so are equal parts on several ranks.
    """
    found = [f"{path!r} {why}" for path, parts in tensors.items() if (why := _problem(parts))]
    return found[:SHOWN] + ([f"{len(found) - SHOWN} more tensors"] if len(found) > SHOWN else [])


def _problem(parts: Parts) -> str:
    shapes = {box.shape: ranks for box, ranks in parts.items()}
    if len(shapes) > 1:
        return "has the shape " + " and ".join(f"{shape} on rank {rank_text(r)}" for shape, r in shapes.items())
    shape, full = next(iter(shapes)), [box for box in parts if box.elements]
    total: Counter[Shape] = Counter()
    for sign, corner in (signed for box in full for signed in corners(box)):
        total[corner] += sign
    for sign, corner in corners(Box.full(shape)):
        total[corner] -= sign
    if not any(total.values()):
        return ""
    overlap = next((pair for pair in combinations(full, 2) if pair[0].intersection(pair[1])), None)
    shown = ", ".join(f"{_slices(box)} on rank {rank_text(parts[box])}" for box in full[:SHOWN])
    if overlap:
        return f"of shape {shape} is held in parts that overlap: {shown}"
    return (
        f"of shape {shape} is not held in full: {shown}; {sum(box.elements for box in full)} of {prod(shape)} elements"
    )


def _slices(box: Box) -> str:
    return "[" + ", ".join(f"{low}:{low + size}" for low, size in zip(box.offsets, box.sizes, strict=True)) + "]"
