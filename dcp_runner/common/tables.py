"""Tables for people: as wide as the terminal, or 120 columns where there is none."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDTH = 120


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    title: str | None = None,
    whole: Collection[str] = (),
    right: Collection[str] = (),
) -> Table:
    """A table of plain text (brackets are not markup); columns in `whole` are never wrapped, those in `right` are
    right-aligned.
    """
    result = Table(title=None if title is None else Text(title), title_justify="left")
    for name in columns:
        result.add_column(name, justify="right" if name in right else "left", overflow="fold", no_wrap=name in whole)
    for row in rows:
        result.add_row(*map(Text, row))
    return result


def as_text(table: Table) -> str:
    """As plain text, for a log."""
    console = Console(width=shutil.get_terminal_size((WIDTH, 24)).columns, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return capture.get().rstrip()
