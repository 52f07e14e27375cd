"""Names with the nearest known one, for messages about names that fit nowhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

HINTED = 8
"""Names of one kind that are told with the nearest known one."""


def hint(name: str, known: Iterable[object]) -> str:
    """The name, with the nearest known one where there is one."""
    near = get_close_matches(name, [str(other) for other in known], 1)
    return f"{name} (near: {near[0]})" if near else name


def hints(names: Sequence[str], known: Iterable[object]) -> list[str]:
    """The names, the first ones with their nearest known one; not all, because each search takes milliseconds."""
    return [hint(name, known) for name in names[:HINTED]] + list(names[HINTED:])
