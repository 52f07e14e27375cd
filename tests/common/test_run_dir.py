"""Every start has an attempt of its own, whoever else starts at the same time; and one module spells the layout."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from where import ROOT

from dcp_runner.common.run_dir import RunDir


def test_attempts_are_numbered_and_the_link_points_at_the_last(tmp_path: Path) -> None:
    assert RunDir(tmp_path / "run").new_attempt({"config.yaml": "a: 1\n"}) == 1
    assert RunDir(tmp_path / "run").new_attempt({"config.yaml": "a: 2\n"}) == 2
    assert os.readlink(tmp_path / "run/.hydra") == "attempts/2/.hydra"
    assert (RunDir(tmp_path / "run").attempt(1).hydra / "config.yaml").read_text() == "a: 1\n"
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    assert (moved / ".hydra/config.yaml").read_text() == "a: 2\n"


def test_what_is_not_a_number_does_not_count(tmp_path: Path) -> None:
    for name in ("7", "old", "3.bak"):
        (tmp_path / "attempts" / name).mkdir(parents=True)
    assert RunDir(tmp_path).new_attempt({}) == 8


def test_starts_at_the_same_time_get_different_numbers(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        numbers = list(threads.map(lambda _: RunDir(tmp_path).new_attempt({"config.yaml": ""}), range(24)))
    assert sorted(numbers) == list(range(1, 25))
    assert (tmp_path / ".hydra/config.yaml").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hydra", "attempts", "logs"]


def test_log_files_sort_by_rank() -> None:
    assert RunDir(Path("run")).log_file(3) == Path("run/logs/rank-00003.log")


def test_a_folder_that_was_never_started() -> None:
    assert RunDir(Path("nowhere")).last_attempt() == 0 and RunDir(Path("nowhere")).log_files() == []


NAMES = {"checkpoints", "attempts", "metrics.jsonl", "outcomes", "logs", ".run.json", "tracker_id", "config.json"}
"""Names within a run folder."""
OTHERWISE = {
    ("dcp_runner/commands/sweep.py", "logs"): "the command of this name",
    ("dcp_runner/commands/sweep.py", "attempts"): "a key of its JSON",
    ("dcp_runner/sweep/status.py", "attempts"): "a column of its table",
}
"""Where one of these words is something else."""


def spelt(tree: ast.AST) -> Iterator[str]:
    """The names that stand in a text, alone or as a part of a path; docstrings and messages have more words."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " not in node.value:
            yield from NAMES & {*node.value.split("/")}


def test_nobody_else_spells_the_layout_of_a_run_folder() -> None:
    files = [file for top in ("dcp_runner", "hydra_plugins") for file in (ROOT / top).rglob("*.py")]
    found = {(file.relative_to(ROOT).as_posix(), name) for file in files for name in spelt(ast.parse(file.read_text()))}
    assert {name for file, name in found if file == "dcp_runner/common/run_dir.py"} == NAMES
    assert {at for at in found if at[0] != "dcp_runner/common/run_dir.py"} == {*OTHERWISE}


@pytest.mark.parametrize(
    "code", ['run_dir / "logs"', 'f"{run_dir}/logs/{rank}"', 'Path(run_dir, "logs")', 'os.path.join(a, "b/logs")']
)
def test_it_would_be_seen(code: str) -> None:
    assert {*spelt(ast.parse(code))} == {"logs"}
    assert not {*spelt(ast.parse('"see the logs"'))}
