"""The pages hold what they promise: modules, names, links, widths and commands exist."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from itertools import pairwise, product
from pathlib import Path

import pytest
from composing import config
from test_layers import floors, sources

from dcp_runner.config.convert import to_plain

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").glob("*.md")],
    key=lambda page: str(page.relative_to(ROOT)),
)
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


# -- the architecture page ---------------------------------------------------------------------------------------------


def modules_on(text: str) -> list[str]:
    """Modules and packages that a page lists: `### `package`` headings, and below them items that begin with `* `name``."""
    found, package = [], ""
    for line in text.splitlines():
        if match := re.fullmatch(r"### `([\w.]+)`", line):
            package = match[1]
            found.append(package)
        elif line.startswith("#"):
            package = ""
        elif package and (match := re.match(r"\* `(\w+)` \w", line)):
            found.append(f"{package}.{match[1]}")
    return found


def test_every_module_is_on_the_architecture_page() -> None:
    missing = sorted({*sources()} - {*modules_on(ARCHITECTURE)})
    lines = [f"\n  below `### `{m.rpartition('.')[0]}``: * `{m.rpartition('.')[2]}` <half a sentence>" for m in missing]
    assert not missing, "add to docs/architecture.md (a new package gets its own heading):" + "".join(lines)


def test_every_module_on_the_architecture_page_exists_once() -> None:
    listed = modules_on(ARCHITECTURE)
    assert sorted(listed) == sorted({*listed}), "docs/architecture.md lists a module twice"
    gone = sorted({*listed} - {*sources()})
    assert not gone, f"docs/architecture.md lists modules that are gone; remove or rename {gone}"


def picture() -> list[str]:
    """The lines of the page's first code block."""
    lines = ARCHITECTURE.split("\n\n    ", 1)[1].splitlines()
    return lines[: lines.index("")]


def test_the_picture_shows_every_package_on_its_layer() -> None:
    """The packages of FLOORS in tests/test_layers.py, from the top down."""
    where: dict[str, int] = {}
    for room in floors():
        name = room.removeprefix("dcp_runner").strip(".").replace(".", "/")
        found = [
            number
            for number, line in enumerate(picture())
            if re.search(rf"(?<![\w/]){re.escape(name)}(?![\w/])", line[:47])
        ]
        assert found or not name, (
            f"docs/architecture.md: the picture lacks {name}; put it on the layer of test_layers.py"
        )
        if name:
            where[room] = found[0]
    order = sorted(where, key=lambda room: -floors()[room])
    for upper, lower in pairwise(order):
        relation = where[upper] < where[lower] if floors()[upper] > floors()[lower] else where[upper] == where[lower]
        assert relation, (
            f"docs/architecture.md: the picture has {upper} and {lower} on other layers than test_layers.py"
        )


@cache
def names_in(module: str) -> frozenset[str]:
    """Names that a module defines, as `Storage` and `Storage.commit`."""
    found = set()
    for node in ast.parse(sources()[module].read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
            found |= {f"{node.name}.{item.name}" for item in ast.walk(node) if isinstance(item, ast.FunctionDef)}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            found |= {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
    return frozenset(found)


def leads_somewhere(name: str) -> bool:
    """Whether `launch.rank.run_rank` or `run.train` is in our code."""
    parts = ("dcp_runner", *name.split("."))
    for length in range(len(parts), 1, -1):
        module, rest = ".".join(parts[:length]), ".".join(parts[length:])
        if module in sources():
            return not rest or rest in names_in(module)
    return False


def dotted_names(text: str) -> list[str]:
    """What stands in backticks and begins with a package of ours."""
    rooms = {name.split(".")[1] for name in sources() if name.startswith("dcp_runner.")}
    names = re.findall(r"`([a-z_]+(?:\.\w+)+)`", text)
    return [name for name in names if name.split(".")[0] in rooms and not name.endswith(".py")]


def test_functions_of_the_steps_exist() -> None:
    steps = ARCHITECTURE.split("## A start, step by step")[1]
    names = dotted_names(steps)
    assert len(names) > 50
    gone = sorted({name for name in names if not leads_somewhere(name)})
    assert not gone, f"docs/architecture.md names what is not in the code (any more); correct the steps: {gone}"


def test_what_is_gone_would_be_seen() -> None:
    assert leads_somewhere("launch.rank.run_rank") and leads_somewhere("train.loop.Trainer.run")
    assert not leads_somewhere("launch.rank.gone") and not leads_somewhere("launch.gone.run_rank")
    text = "### `dcp_runner.a`\n* `b` is it.\n## Other\n* `c` is none.\n"
    assert modules_on(text) == ["dcp_runner.a", "dcp_runner.a.b"]


# -- links and widths --------------------------------------------------------------------------------------------------


def prose(text: str) -> str:
    """The text without code."""
    return re.sub(r"^(```.*?^```|    .*?)$", "", text, flags=re.M | re.S)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead_links(page: Path, text: str) -> list[str]:
    """Relative links of a page that lead nowhere."""
    found = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(text)):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        there = (page.parent / path).resolve() if path else page
        if not there.exists() or (anchor and anchor not in anchors(there)):
            found.append(target)
    return found


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    assert dead_links(page, page.read_text()) == []


def test_a_dead_link_would_be_seen() -> None:
    page = ROOT / "README.md"
    assert dead_links(page, "[a](docs/gone.md) [b](docs/concepts.md#gone) [c](docs/concepts.md#callbacks)") == [
        "docs/gone.md",
        "docs/concepts.md#gone",
    ]


@each_page
def test_lines_are_at_most_120_wide(page: Path) -> None:
    """Tables and addresses cannot be broken."""
    wide = [
        number
        for number, line in enumerate(page.read_text().splitlines(), 1)
        if len(line) > 120 and not line.startswith("|") and "://" not in line
    ]
    assert not wide, f"break these lines of {page.name}: {wide}"


# -- commands and keys of README ---------------------------------------------------------------------------------------


def commands(text: str) -> list[str]:
    """Command lines that start our program, without comments."""
    lines = [line.strip().split("  #")[0] for line in text.splitlines() if line.startswith("    ")]
    return [line for line in lines if re.search(r"-m dcp_runner\b|^dcp-runner ", line)]


def overrides_of(command: str) -> Iterator[list[str]]:
    """Overrides of each job of a command; empty for one that composes nothing."""
    words = [word for word in shlex.split(command, comments=True) if re.match(r"[+~]*[\w./]+=", word)]
    if "--config-dir" in command or any(word.startswith("resume_sweep=") for word in words):
        return  # files of the user's own; the recorded command of a sweep
    values = [
        [(key, value) for value in re.split(r",(?![^\[{(]*[\]})])", text)]
        for key, _, text in (word.partition("=") for word in words)
    ]
    for job in product(*values):
        yield [f"{key}={value}" for key, value in job]


COMMANDS = [*dict.fromkeys(commands((ROOT / "README.md").read_text()))]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_of_the_readme_compose(command: str) -> None:
    for overrides in overrides_of(command):
        config(*overrides)


def test_the_readme_has_commands_and_a_wrong_one_would_be_seen() -> None:
    assert len([job for command in COMMANDS for job in overrides_of(command)]) > 8
    with pytest.raises(Exception, match="bogus"):
        config(*next(overrides_of("python -m dcp_runner trainer.bogus=1")))


@cache
def known_keys() -> frozenset[str]:
    """Every key of a run, and the config groups."""
    found: set[str] = set()

    def walk(node: object, prefix: str) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                found.add(f"{prefix}{key}")
                walk(value, f"{prefix}{key}.")

    walk(to_plain(config("name=x")), "")
    return frozenset(found)


def keys_of_row(cell: str) -> Iterator[str]:
    """Keys in the first cell of a table's row; one that begins with a dot goes on from the key before it."""
    before = ""
    for token in re.findall(r"`([\w.]+)(?:=[^`]*)?`", cell):
        if not token.startswith("."):
            before = token
            if "." in token or token in known_keys():
                yield token
            continue
        stems = [before.rsplit(".", cut)[0] for cut in range(1, before.count(".") + 1)]
        yield next((stem + token for stem in stems if stem + token in known_keys()), before + " " + token)


def test_keys_in_the_table_of_the_readme_exist() -> None:
    rows = re.findall(r"^\| (.*?`[\w.]+.*?) \|", (ROOT / "README.md").read_text().split("| key |")[1], flags=re.M)
    keys = [key for row in rows for key in keys_of_row(row)]
    assert len(keys) > 25
    assert not [key for key in keys if key not in known_keys()]
