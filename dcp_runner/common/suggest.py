"""The nearest known name, for messages about unknown names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

HINTED = 8
"""So many names of one kind are shown with their nearest known one."""


def hint(name: str, known: Iterable[object]) -> str:
    """The name, with the nearest known one where there is one."""
    near = get_close_matches(name, [str(other) for other in known], 1)
    return f"{name} (near: {near[0]})" if near else name


def hints(names: Sequence[str], known: Iterable[object]) -> list[str]:
    """The names, the first ones with their nearest known one; not all, because each search takes milliseconds."""
    return [hint(name, known) for name in names[:HINTED]] + list(names[HINTED:])


def did_you_mean(name: str, known: Iterable[str], *, below: str = "", cutoff: float = 0.6) -> str:
    """The end of a message about an unknown name: the nearest known one, prefixed with `below`; or nothing."""
    known = list(known)
    same = [candidate for candidate in known if candidate.lower() == name.lower()]
    near = same or get_close_matches(name, known, n=1, cutoff=cutoff)
    return f"; did you mean `{below}{near[0]}`?" if near else ""
