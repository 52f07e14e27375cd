"""Who writes which part of a copy, and which copy a rank loads. Pure: every rank derives the same plan from the
topology alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dcp_runner.checkpoint.component import OnMissingCopy
from dcp_runner.checkpoint.topology import EVERYWHERE, Copy

MIN_PART = 2**20
"""Bytes below which a copy is not split further."""
SMALL = 4096
"""Tensors of fewer bytes always go with the skeleton into the first part."""


@dataclass(frozen=True)
class Part:
    """One file of a copy: its path in the checkpoint, its number from 1, its writer, and the large tensors it holds.

    Part 1 also holds the skeleton and all small tensors.
    """

    path: str
    number: int
    count: int
    writer: int
    names: tuple[str, ...]


def stem(key: str, copy_name: str) -> str:
    """Path of a copy's files without ending."""
    return key if copy_name == EVERYWHERE else f"{key}/{copy_name}"


def large(sizes: Mapping[str, int]) -> dict[str, int]:
    """The tensors that are shared out between the writers, with their sizes in bytes."""
    return {name: size for name, size in sizes.items() if size >= SMALL}


def split(key: str, copy: Copy, sizes: Mapping[str, int], turn: int = 0) -> tuple[Part, ...]:
    """Share the large tensors of a copy out between its writers, the largest first to the least loaded (Graham's
    LPT rule).

    `sizes` are bytes by tensor name. `turn` lets the small components begin with different writers.
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
    writers = [copy.writers[(turn + number) % len(copy.writers)] for number in range(count)]
    return tuple(
        Part(path, number, count, writer, tuple(held))
        for number, (path, writer, held) in enumerate(zip(paths, writers, names, strict=True), 1)
    )


@dataclass(frozen=True)
class Source:
    """Where a live copy gets its state from: a saved copy's name, or None (it starts afresh); and what that is
    called.
    """

    copy: str | None
    action: str


def sources(saved: Sequence[str], live: Iterable[str], policy: OnMissingCopy) -> dict[str, Source]:
    """For every live copy the saved copy to load. The policy decides for the whole component, so that no two ranks
    are treated differently.

    Raises ValueError, naming missing and superfluous copies, where they differ and the policy is `error`.
    """
    wanted = list(live)
    if set(saved) == set(wanted):
        return {name: Source(name, "loaded") for name in wanted}
    if policy == "fresh":
        return {name: Source(None, "fresh") for name in wanted}
    if policy == "first":
        return {name: Source(saved[0], f"loaded from {saved[0]}") for name in wanted}
    missing = [name for name in wanted if name not in saved]
    unused = [name for name in saved if name not in wanted]
    told = [f"{what} {_names(names)}" for what, names in (("lacks", missing), ("has besides", unused)) if names]
    raise ValueError(
        f"the checkpoint {' and '.join(told)}; it was saved with other copies, and its policy (on_missing_copy) is "
        "'error'. "
        "Resume with the topology and sharing of the checkpoint, or leave this component out with resume_skip"
    )


def _names(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
