"""The options of an optimizer's groups, as they are stored: for each parameter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from dcp_runner.checkpoint.inner import split

BESIDE = ("group", "joined")
"""Stored with a parameter's options: the number of its group, and whether it was added after the beginning."""
Options = Mapping[str, Mapping[str, Any]]
"""By name of a parameter."""


def options_of(group: Mapping[str, Any]) -> dict[str, Any]:
    """What a group has beside its parameters."""
    return {key: value for key, value in group.items() if key not in ("params", "param_names")}


def stored_options(options: Mapping[str, Any], prefixes: Sequence[str]) -> dict[str, dict[str, Any]]:
    """A parameter's options in the optimizer and in those inside it, by their prefixes."""
    return split({key: value for key, value in options.items() if key not in BESIDE}, prefixes)


def wrong_groups(options: Options, groups: Mapping[Any, Sequence[str]], prefixes: Sequence[str]) -> Iterator[str]:
    """Parameters that were saved with different options, and are in one group here; the groups by (prefix, number)."""
    for (prefix, _), names in groups.items():
        known = [name for name in names if name in options]
        for name in known[1:]:
            mine, other = (stored_options(options[one], prefixes)[prefix] for one in (name, known[0]))
            changed = sorted(key for key in mine.keys() | other.keys() if not _equal(mine.get(key), other.get(key)))
            if changed:
                yield f"{name} and {known[0]} are in one group here, and were saved with different {changed}"


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.shape == other.shape and one.dtype == other.dtype
    return type(one) is type(other) and bool(one == other)
