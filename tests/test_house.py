"""The house stays easy to find one's way in: every module has its test file by name, and modules and functions stay short."""

from __future__ import annotations

import ast
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted(
    file.relative_to(ROOT)
    for top in ("dcp_runner", "hydra_plugins")
    for file in (ROOT / top).rglob("*.py")
    if file.name != "__main__.py" and "conf" not in file.parts
)
DOUBLED = {name for name in (m.name for m in MODULES) if [m.name for m in MODULES].count(name) > 1}
ELSEWHERE: dict[str, str] = {
    "dcp_runner/app.py": "tests/launch/preflight/test_checks.py: the program as a whole, and every test that starts it",
    "dcp_runner/checkpoint/loading/request.py": "tests/checkpoint/loading/test_load.py: plain data",
    "dcp_runner/checkpoint/saving/mesh_replicas.py": "tests/distributed/test_gloo_tiling.py: needs a real mesh",
    "dcp_runner/checkpoint/saving/records.py": "tests/checkpoint/files/test_manifest.py: what it writes there",
    "dcp_runner/checkpoint/saving/request.py": "tests/checkpoint/saving/test_save.py: plain data and its checks",
    "dcp_runner/commands/command.py": "tests/commands/test_program.py: plain data",
    "dcp_runner/common/run_context.py": "tests/common/test_launch_env.py: plain data",
    "dcp_runner/launch/job.py": "tests/launch/test_new_job.py: plain data",
    "dcp_runner/launch/preflight/target_checks.py": "tests/launch/preflight/test_build_checks.py: what it is used for",
    "dcp_runner/launch/start_here.py": "tests/launch/test_lost_folders.py: by the program, like all that it starts",
    "dcp_runner/run/component_names.py": "tests/launch/preflight/test_sharing_of_topologies.py: a list",
    "hydra_plugins/dcp_launcher/_config.py": "tests/plugins/test_launcher_config.py: the name is taken",
}
"""Modules without a test file of their own name: where they are tested."""


def file_of(module: Path) -> Path:
    """Where the tests of a module are: `dcp_runner/a/b.py` -> `tests/a/test_b.py`; with the room in its name where two modules share one."""
    *rooms, name = module.with_suffix("").parts[1:]
    if module.parts[0] == "hydra_plugins":
        rooms = ["plugins"]
    if f"{name}.py" in DOUBLED:  # pytest needs file names that are unique
        name = f"{rooms[-1]}_{name}"
    return Path("tests", *rooms, f"test_{name.lstrip('_')}.py")


def lines(path: Path) -> int:
    return len((ROOT / path).read_text().splitlines())


@pytest.mark.parametrize("module", [m for m in MODULES if m.name != "__init__.py"], ids=str)
def test_each_module_has_its_test_file(module: Path) -> None:
    expected = file_of(module)
    if str(module) in ELSEWHERE:
        assert (ROOT / ELSEWHERE[str(module)].split(":")[0]).exists(), (
            f"{module}: {ELSEWHERE[str(module)]} is not there"
        )
        assert not (ROOT / expected).exists(), f"{expected} exists: take {module} out of ELSEWHERE"
    else:
        assert (ROOT / expected).exists(), (
            f"{module} has no {expected}; add it, or say in ELSEWHERE where its tests are"
        )


def test_nothing_in_the_list_is_gone() -> None:
    assert set(ELSEWHERE) <= {str(module) for module in MODULES}


def test_modules_are_short() -> None:
    sizes = {str(module): lines(module) for module in MODULES if lines(module) > 1}
    assert {module: size for module, size in sizes.items() if size > 250} == {}
    assert statistics.median(sizes.values()) <= 100


def test_functions_are_short() -> None:
    nodes = [node for module in MODULES for node in ast.walk(ast.parse((ROOT / module).read_text()))]
    sizes = sorted(
        (node.end_lineno or 0) - node.lineno + 1
        for node in nodes
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    assert sizes[int(0.95 * len(sizes))] <= 25


def test_rooms_are_small() -> None:
    rooms = [module.parent for module in MODULES if module.name != "__init__.py"]
    assert {str(room): rooms.count(room) for room in rooms if rooms.count(room) > 17} == {}
