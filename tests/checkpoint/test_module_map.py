"""What docstrings of the checkpoint core say about modules is true."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import dcp_runner
from dcp_runner import checkpoint

PACKAGE = Path(dcp_runner.__file__).parent
ROOM = PACKAGE / "checkpoint"
OURS = [*ROOM.glob("*.py"), *(ROOM / "state").glob("*.py")]


def listed(docstring: str) -> list[str]:
    """The modules in the left column of a map."""
    columns = re.findall(r"^([a-z_]+(?:(?:, | \| )[a-z_]+)*)   +\S", docstring, re.MULTILINE)
    return [name for column in columns for name in re.split(r", | \| ", column)]


def referred(file: Path) -> list[str]:
    """Every `x.py` or `x/y.py` in a docstring or comment."""
    tree = ast.parse(file.read_text())
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    texts += re.findall(r"#.*", file.read_text())
    return [name for text in texts for name in re.findall(r"[\w/]+\.py\b", text)]


def exists(name: str) -> bool:
    return any(PACKAGE.rglob(name))


def test_the_map_has_exactly_the_modules_and_rooms_that_exist() -> None:
    found = {file.stem for file in ROOM.glob("*.py")} | {file.parent.name for file in ROOM.glob("*/__init__.py")}
    assert sorted(listed(checkpoint.__doc__ or "")) == sorted(found - {"__init__"})


@pytest.mark.parametrize("file", OURS, ids=lambda file: file.stem)
def test_modules_that_are_referred_to_exist(file: Path) -> None:
    assert [name for name in referred(file) if not exists(name)] == []


def test_these_tests_would_see_it(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text('"""See gone.py and state/flatten.py."""\nx = 1  # as in lost/flatten.py\n')
    assert [name for name in referred(tmp_path / "a.py") if not exists(name)] == ["gone.py", "lost/flatten.py"]
    assert listed("saving | loading   one save | one load\n\nbind   x") == ["saving", "loading", "bind"]
