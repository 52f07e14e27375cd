"""The public surface: `dcp_runner.__all__`, docs/api.md and the examples agree on it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import dcp_runner

ROOT = Path(__file__).parent.parent
ROW = re.compile(r"^\| `(\w+)` \| (.+) \| `([\w.]+)` \|$", re.M)


def documented() -> dict[str, str]:
    """Public name -> its home, as docs/api.md lists them."""
    rows = ROW.findall((ROOT / "docs" / "api.md").read_text())
    assert len({name for name, *_ in rows}) == len(rows), "docs/api.md lists a name twice"
    return {name: home for name, _, home in rows}


def imported_from_us(source: str) -> set[str]:
    """What a source imports from dcp_runner, as `dcp_runner:Topology`."""
    nodes = list(ast.walk(ast.parse(source)))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    found = {f"{name}:" for name in plain if name.partition(".")[0] == "dcp_runner"}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] == "dcp_runner":
            found |= {f"{node.module}:{alias.name}" for alias in node.names}
    return found


def deep_imports(source: str) -> set[str]:
    """What a source imports from us that is not public."""
    return imported_from_us(source) - {"dcp_runner:", *(f"dcp_runner:{name}" for name in dcp_runner.__all__)}


def code_blocks(text: str) -> str:
    """The import lines in the code of a Markdown page."""
    return "\n".join(line.strip() for line in text.splitlines() if re.match(r"\s+(from|import) dcp_runner", line))


def test_the_page_lists_what_is_exported() -> None:
    homes = documented()
    missing, surplus = sorted({*dcp_runner.__all__} - {*homes}), sorted({*homes} - {*dcp_runner.__all__})
    assert not missing, f"add a row to docs/api.md for {missing}: | `NAME` | one line | `home.module` |"
    assert not surplus, f"docs/api.md lists {surplus}, which dcp_runner/__init__.py does not export"


def test_every_name_is_where_the_page_says() -> None:
    for name, home in documented().items():
        assert dcp_runner._HOMES[name] == home, f"docs/api.md: the home of {name} is {dcp_runner._HOMES[name]}"
        assert getattr(sys.modules[home] if home in sys.modules else __import__(home, fromlist=["_"]), name)


def test_the_types_name_what_is_exported() -> None:
    """What mypy and editors see is what is loaded at run time."""
    tree = ast.parse(Path(dcp_runner.__file__).read_text())
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    typed = {
        alias.name: node.module for node in guarded.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert typed == dcp_runner._HOMES


def test_no_public_name_is_hidden_by_a_room() -> None:
    """Python binds an imported subpackage in its package: `dcp_runner.run` would be the room, not a function."""
    rooms = {path.stem for path in Path(dcp_runner.__file__).parent.iterdir()}
    assert not rooms & {*dcp_runner.__all__}


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        dcp_runner.nonsense  # noqa: B018


def test_importing_the_package_loads_nothing() -> None:
    code = "import sys, dcp_runner; dir(dcp_runner); print([m for m in sys.modules if m.startswith('dcp_runner.')])"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert run.stdout.strip() == "[]", run.stderr


@pytest.mark.parametrize("folder", ["examples", "benchmarks"])
def test_examples_use_only_the_public_surface(folder: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    deep = {str(file.relative_to(ROOT)): found for file in files if (found := deep_imports(file.read_text()))}
    assert not deep, f"import these from dcp_runner, and export them there if they are missing: {deep}"


def test_the_pages_import_only_the_public_surface() -> None:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    assert not {page.name: found for page in pages if (found := deep_imports(code_blocks(page.read_text())))}


def test_a_deep_import_would_be_seen() -> None:
    source = "from dcp_runner import Topology\nfrom dcp_runner.app import check\nimport dcp_runner.train.loop, os\n"
    assert deep_imports(source) == {"dcp_runner.app:check", "dcp_runner.train.loop:"}
    assert deep_imports("from dcp_runner import nonsense") == {"dcp_runner:nonsense"}


def test_type_checkers_find_our_types() -> None:
    assert (ROOT / "dcp_runner" / "py.typed").is_file()
