"""What we use of submitit's private APIs exists, and is used in one module only."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest
import submitit
from submitit.local.local import LOCAL_REQUEUE_RETURN_CODE
from submitit.slurm.slurm import _make_sbatch_string

from dcp_runner.launch import submitit_private
from dcp_runner.launch.requeue import RUN_AGAIN
from dcp_runner.launch.submitit_private import LocalTasks, SlurmTasks, batch_script

EXPORTED = {name for name, value in vars(submitit).items() if not inspect.ismodule(value)}
ROOT = Path(__file__).parents[2]
SEAM = "dcp_runner/launch/submitit_private.py"
MODULES = [file for top in ("dcp_runner", "hydra_plugins") for file in sorted((ROOT / top).rglob("*.py"))]


def private_apis(code: str) -> Iterator[str]:
    """Names of submitit that it does not export by itself, where they are imported or reached by attributes."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("submitit."))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "submitit":
            names = [alias.name for alias in node.names]
            yield from (f"{node.module}.{name}" for name in names if node.module != "submitit" or name not in EXPORTED)
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value).startswith("submitit."):
            yield ast.unparse(node)


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(ROOT)))
def test_private_apis_are_imported_in_the_seam_only(file: Path) -> None:
    found = list(private_apis(file.read_text()))
    assert bool(found) == (str(file.relative_to(ROOT)) == SEAM), found


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("from submitit import Job, LocalJob", []),
        ("import submitit\nsubmitit.Job", []),
        ("from submitit.core.utils import pickle_load", ["submitit.core.utils.pickle_load"]),
        ("import submitit.slurm.slurm", ["submitit.slurm.slurm"]),
        ("from submitit import slurm", ["submitit.slurm"]),
        ("import submitit\nsubmitit.core.utils", ["submitit.core.utils"]),
    ],
)
def test_this_test_would_see_it(code: str, expected: list[str]) -> None:
    assert list(private_apis(code)) == expected


def test_every_part_exists() -> None:
    assert all(callable(getattr(submitit_private, name)) for name in submitit_private.__all__)


@pytest.mark.parametrize("executor", [SlurmTasks, LocalTasks])
def test_submitit_asks_for_the_command_of_a_task(executor: type) -> None:
    """The property that we override is one of submitit's, by this name."""
    assert isinstance(vars(executor.__mro__[2])["_submitit_command_str"], property)
    made = object.__new__(executor)
    made.task_command = "mine"
    assert made._submitit_command_str == "mine"


def test_submitit_writes_the_script_that_we_show(tmp_path: Path) -> None:
    script = batch_script("echo mine", tmp_path, 3, {"array_parallelism": 2, "time": 7, "wckey": None})
    for line in ("#SBATCH --array=0-2%2", "#SBATCH --time=7", "echo mine"):
        assert line in script
    assert {"command", "folder", "map_count", "additional_parameters"} <= {
        *inspect.signature(_make_sbatch_string).parameters
    }


def test_submitit_restarts_a_local_job_that_exits_with_our_code() -> None:
    assert RUN_AGAIN == LOCAL_REQUEUE_RETURN_CODE
