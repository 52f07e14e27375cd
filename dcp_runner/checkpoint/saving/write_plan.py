"""Which rank writes which part of a copy. Pure: every rank derives the same plan from the topology alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dcp_runner.checkpoint.topology import EVERYWHERE, Copy

MIN_PART = 2**20
"""Bytes below which a copy is not split further."""
SMALL = 4096
"""Tensors of fewer bytes always go with the tree spec into the first part."""


@dataclass(frozen=True)
class Part:
    """One file of a copy: its path in the checkpoint, its number from 1, its writer, and the large tensors it holds.

    Part 1 also holds the tree spec and all small tensors.
    """

    path: str
    number: int
    count: int
    writer: int
    names: tuple[str, ...]


def stem(key: str, copy_name: str) -> str:
    """Path of a copy's files without the suffix."""
    return key if copy_name == EVERYWHERE else f"{key}/{copy_name}"


def large(sizes: Mapping[str, int]) -> dict[str, int]:
    """The tensors that are divided among the writers, with their sizes in bytes."""
    return {name: size for name, size in sizes.items() if size >= SMALL}


def split(key: str, copy: Copy, sizes: Mapping[str, int], rotation: int = 0) -> tuple[Part, ...]:
    """Divide the large tensors of a copy among its writers, the largest first, each to the least loaded (Graham's LPT
    rule).

    `sizes` are bytes by tensor name. `rotation` lets small components start with different writers.
    """
    big = large(sizes)
    count = max(1, min(len(copy.writers), len(big), sum(big.values()) // MIN_PART))
    loads, names = [0] * count, [[] for _ in range(count)]  # type: tuple[list[int], list[list[str]]]
    for name in sorted(big, key=lambda name: (-big[name], name)):
        part = loads.index(min(loads))
        loads[part] += big[name]
        names[part].append(name)
    base = stem(key, copy.name)
    paths = [f"{base}.safetensors"]
    if count > 1:
        paths = [f"{base}-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
    writers = [copy.writers[(rotation + number) % len(copy.writers)] for number in range(count)]
    return tuple(
        Part(path, number, count, writer, tuple(held))
        for number, (path, writer, held) in enumerate(zip(paths, writers, names, strict=True), 1)
    )
