"""The table of kinds in the docstring is the kinds that exist."""

from __future__ import annotations

import re
from collections import namedtuple

from dcp_runner.checkpoint.state import scalars, treespec
from dcp_runner.checkpoint.state.treespec import DICTS, fields_of

CONTAINERS = {
    "tensor",
    "ndarray",
    "bytesio",
    "enum",
    "tuple",
    "size",
    "deque",
    "namedtuple",
    "set",
    "frozenset",
    *DICTS,
}


def test_the_table_in_the_docstring_has_every_kind() -> None:
    doc = treespec.__doc__ or ""
    tagged = {name for kinds in re.findall(r'{"\$": ((?:"\w+"(?: \| )?)+)', doc) for name in re.findall(r"\w+", kinds)}
    listed = doc[doc.index("the arguments of a constructor") :]
    unknown = [name for name in tagged - CONTAINERS if not scalars.knows(name)]
    assert unknown == [] and tagged >= CONTAINERS
    known = {*scalars._DECODERS, *scalars._BY_TAG}
    assert [name for name in sorted(known - tagged) if not re.search(rf"\b{name}\b", listed)] == []


def test_only_namedtuples_have_fields() -> None:
    assert fields_of(namedtuple("Point", "x y")(1, 2)) == ("x", "y") and fields_of((1, 2)) == () == fields_of("ab")
