"""Finds non-finite values on one rank, and writes one message about all ranks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from dcp_runner.checkpoint.state.dtensor import is_dtensor
from dcp_runner.common.ranks import rank_text


def nonfinite_values(values: dict[str, float | None]) -> list[str]:
    """The named values that are not finite, as text."""
    return [f"{name} {value}" for name, value in values.items() if value is not None and not math.isfinite(value)]


def nonfinite_tensors(kind: str, tensors: Iterable[tuple[str, Any]]) -> list[str]:
    """One line about the named tensors (or None) whose part on this rank is not finite; no line if all are finite."""
    names = [name for name, tensor in tensors if not _is_finite(tensor)]
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return [f"{kind} {names[0]}{more}"] if names else []


def summarize_ranks(found: Sequence[Sequence[str]]) -> str:
    """The findings of all ranks, as `loss nan (rank 1); gradient norm nan (ranks 0-3)`; the rarest finding first."""
    ranks: dict[str, list[int]] = {}
    for rank, lines in enumerate(found):
        for line in lines:
            ranks.setdefault(line, []).append(rank)
    rarest_first = sorted(ranks.items(), key=lambda item: len(item[1]))
    return "; ".join(f"{line} (rank{'s'[: len(those) > 1]} {rank_text(those)})" for line, those in rarest_first)


def _is_finite(tensor: Any) -> bool:
    local = tensor.to_local() if is_dtensor(tensor) else tensor
    return local is None or bool(torch.isfinite(local).all())
