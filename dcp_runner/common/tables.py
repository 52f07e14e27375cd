"""Tables for people: text as wide as the terminal, or 120 columns where there is none."""

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
    """A table of text; the columns in `whole` are never broken into lines, those in `right` stand right. What stands in
    brackets is text too, and no markup.
    """
    made = Table(title=None if title is None else Text(title), title_justify="left")
    for name in columns:
        made.add_column(name, justify="right" if name in right else "left", overflow="fold", no_wrap=name in whole)
    for row in rows:
        made.add_row(*map(Text, row))
    return made


def as_text(made: Table) -> str:
    """As plain text, for a log."""
    console = Console(width=shutil.get_terminal_size((WIDTH, 24)).columns, color_system=None)
    with console.capture() as capture:
        console.print(made)
    return capture.get().rstrip()
