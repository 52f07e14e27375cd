"""Imports point down or sideways within a room, never up; the pure modules and the package itself cost no torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = """
dcp_runner dcp_runner.__main__ hydra_plugins
dcp_runner.app
dcp_runner.commands
dcp_runner.sweep
dcp_runner.launch
dcp_runner.launch.preflight
dcp_runner.run
dcp_runner.config
dcp_runner.train
dcp_runner.train.parallel
dcp_runner.checkpoint.coordinator
dcp_runner.checkpoint.saving dcp_runner.checkpoint.loading
dcp_runner.checkpoint.bind
dcp_runner.checkpoint.files dcp_runner.checkpoint.sync
dcp_runner.checkpoint.state.optim
dcp_runner.checkpoint.state
dcp_runner.checkpoint dcp_runner.data dcp_runner.models
dcp_runner.common
"""
"""One line for each floor (layer), from the top down, with its rooms (packages). A module belongs to the room with the
longest matching name, and imports from its own room and from the floors below; rooms on the same floor must not import
each other."""
EXCEPTIONS: dict[str, str] = {}
"""Imports that point up, each with its reason."""
PURE = tuple(
    f"dcp_runner.checkpoint.{name}"
    for name in (
        "sharing", "topology", "component", "stateful", "config", "errors", "retention",
        "files.manifest", "sync.claims", "saving.write_plan", "loading.copy_choice",
        "state.box", "state.treespec", "state.merge",
    )
)  # fmt: skip
"""No torch, no files."""
LIGHT = ["dcp_runner", *PURE, "dcp_runner.train.config", "dcp_runner.train.parallel.config", "dcp_runner.config.schema"]
NO_HYDRA = ("checkpoint", "data", "models", "train", "common")
"""Rooms that Hydra, omegaconf and submitit do not enter."""


@cache
def sources() -> dict[str, Path]:
    """Our modules by name."""
    files = [file for top in ("dcp_runner", "hydra_plugins") for file in (ROOT / top).rglob("*.py")]
    return {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


def imported(tree: ast.AST) -> Iterator[str]:
    """Every module that is imported anywhere, in functions and for type checking too; `from a import b` as `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def imports_of(module: str) -> list[str]:
    return list(imported(ast.parse(sources()[module].read_text())))


def of_package(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


@cache
def floors() -> dict[str, int]:
    """Number of each room's floor, from 0 at the bottom."""
    lines = FLOORS.split("\n")[1:-1]
    return {room: len(lines) - number for number, line in enumerate(lines, 1) for room in line.split()}


def room_of(name: str) -> str:
    """The room that a module, or a name imported from one, belongs to; empty: none of ours."""
    module = next((m for m in (name, name.rpartition(".")[0]) if m in sources()), name)
    return max((room for room in floors() if of_package(module, (room,))), key=len, default="")


def offences(module: str, names: list[str]) -> list[str]:
    """Those of the imported names that this module must not import."""
    mine = room_of(module)
    found = [
        name
        for name in names
        if (room := room_of(name)) not in ("", mine)
        and floors()[room] >= floors()[mine]
        and EXCEPTIONS.get(module) != name
    ]
    if of_package(module, tuple(f"dcp_runner.{room}" for room in NO_HYDRA)):
        found += [name for name in names if of_package(name, ("hydra", "omegaconf", "submitit"))]
    if of_package(module, ("dcp_runner.train",)):
        found += [
            n for n in names if of_package(n, ("dcp_runner.data",)) and not of_package(n, ("dcp_runner.data.feed",))
        ]
    if module in PURE:
        found += [name for name in names if of_package(name, ("torch", "numpy", "safetensors", "xxhash"))]
        found += [name for name in names if of_package(name, ("dcp_runner.checkpoint",)) and not of_package(name, PURE)]
    return found


@pytest.mark.parametrize("module", sorted(sources()))
def test_no_import_points_up(module: str) -> None:
    assert offences(module, imports_of(module)) == []


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("dcp_runner.checkpoint.saving.save", "dcp_runner.train.loop.Trainer"),
        ("dcp_runner.checkpoint.saving.save", "dcp_runner.config.schema.RunConfig"),
        ("dcp_runner.checkpoint.coordinator", "omegaconf.DictConfig"),
        ("dcp_runner.checkpoint.saving.write_plan", "torch"),
        ("dcp_runner.checkpoint.state.modules", "dcp_runner.checkpoint.files.storage.Storage"),
        ("dcp_runner.checkpoint.files.storage", "dcp_runner.checkpoint.sync.comm.Comm"),
        ("dcp_runner.checkpoint.saving.save", "dcp_runner.checkpoint.loading.load.load"),
        ("dcp_runner.common.run_dir", "dcp_runner.config.schema.RunConfig"),
        ("dcp_runner.train.parallel.fsdp", "dcp_runner.train.loop.Trainer"),
        ("dcp_runner.config.convert", "dcp_runner.run.build.build"),
        ("dcp_runner.launch.preflight.checks", "dcp_runner.launch.rank.run_rank"),
        ("dcp_runner.checkpoint.saving.write_plan", "dcp_runner.checkpoint.files.storage.Storage"),
        ("dcp_runner.data.feed", "dcp_runner.checkpoint.stateful.Stateful"),
        ("dcp_runner.models.gpt", "dcp_runner.data.order.Order"),
        ("dcp_runner.train.loop", "dcp_runner.data.central.CentralFeed"),
        ("dcp_runner.train.loop", "dcp_runner.run.build.build"),
        ("dcp_runner.train.loop", "hydra.utils.instantiate"),
        ("dcp_runner.app", "hydra_plugins.dcp_searchpath"),
        ("dcp_runner.launch.hydra_main", "dcp_runner.sweep.record.read"),
        ("dcp_runner.sweep.status", "dcp_runner.commands.program.COMMANDS"),
    ],
)
def test_this_test_would_see_it(module: str, name: str) -> None:
    assert offences(module, ["json", name]) == [name] and not offences(module, ["json"])


def runtime(module: str) -> set[str]:
    """Our modules whose code runs while this one is imported: imports at the top, those for type checking aside."""
    tree = ast.parse(sources()[module].read_text())
    names = [name for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom) for name in imported(node)]
    return {
        one for name in names for one in (name, name.rpartition(".")[0]) if one in sources() and one != "dcp_runner"
    }


def test_no_modules_import_each_other_in_a_circle() -> None:
    def walk(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " -> ".join((*above, module))
        if module not in done:
            for name in sorted(runtime(module) - {module}):
                walk(name, (*above, module))
        done.add(module)

    done: set[str] = set()
    for module in sources():
        walk(module, ())


def test_the_coordinator_is_the_top_of_the_checkpoint_core() -> None:
    core = [module for module in sources() if module.startswith("dcp_runner.checkpoint.")]
    users = {
        top: [m for m in core if f"dcp_runner.checkpoint.{top}" in runtime(m)]
        for top in ("coordinator", "saving.save", "loading.load")
    }
    above = ["dcp_runner.checkpoint.coordinator"]
    assert users == {"coordinator": [], "saving.save": above, "loading.load": above}


def first_with_torch(names: list[str]) -> str:
    """The first of these modules whose import brings torch, in a fresh interpreter; empty where none does."""
    code = f"import sys\nfor name in {names}:\n    __import__(name)\n    if 'torch' in sys.modules: sys.exit(name)"
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60).stderr


def test_light_modules_do_not_import_torch() -> None:
    assert first_with_torch(LIGHT) == ""


def test_what_hydra_discovers_is_light() -> None:
    """Hydra imports every plugin in every app, also in those that have nothing to do with us."""
    plugins = [name for name in sources() if name.startswith("hydra_plugins.") and "._" not in name]
    assert plugins and first_with_torch(plugins) == ""


# -- two promises about the code that only its text can show -----------------------------------------------------------

LOADERS = ("pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "importlib", "runpy")


def calls(module: str) -> set[str]:
    nodes = ast.walk(ast.parse(sources()[module].read_text()))
    return {ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)}


def test_the_checkpoint_core_neither_unpickles_nor_imports_by_name() -> None:
    core = [module for module in sources() if of_package(module, ("dcp_runner.checkpoint",))]
    assert len(core) > 10
    for module in core:
        assert not [name for name in imports_of(module) if of_package(name, LOADERS)], module
        forbidden = {
            "torch.load",
            "torch.save",
            "np.load",
            "np.save",
            "numpy.load",
            "eval",
            "exec",
            "compile",
            "__import__",
        }
        assert not calls(module) & forbidden, module


def broad(tree: ast.AST) -> Iterator[ast.AST]:
    """`except:`, `except Exception`, `except BaseException`, alone or among others, and the same in `suppress`."""
    for node in ast.walk(tree):
        caught: list[ast.expr | None] = []
        if isinstance(node, ast.ExceptHandler):
            caught = [*node.type.elts] if isinstance(node.type, ast.Tuple) else [node.type]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress"):
            caught = [*node.args]
        if any(one is None or ast.unparse(one).rpartition(".")[2] in ("Exception", "BaseException") for one in caught):
            yield node


def test_one_broad_except_in_all_our_code() -> None:
    """In the wrapper of the phases, where it is what makes a failure visible to all ranks."""
    found = [module for module, file in sources().items() for _ in broad(ast.parse(file.read_text()))]
    assert found == ["dcp_runner.checkpoint.sync.phases"]


@pytest.mark.parametrize(
    "code",
    [
        "except: 0",
        "except Exception: 0",
        "except (OSError, builtins.BaseException) as error: 0",
        "finally: suppress(Exception)",
    ],
)
def test_a_broad_one_would_be_seen(code: str) -> None:
    assert list(broad(ast.parse(f"try: 0\n{code}")))
    assert not list(broad(ast.parse("try: 0\nexcept (OSError, ValueError): suppress(KeyError)")))
