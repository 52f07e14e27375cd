"""Attempts: every start has its own number, whoever else starts at the same time."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dcp_runner.common.run_dir import attempt_dir, log_file, new_attempt


def test_attempts_are_numbered_and_the_link_points_at_the_last(tmp_path: Path) -> None:
    assert new_attempt(tmp_path / "run", {"config.yaml": "a: 1\n"}) == 1
    assert new_attempt(tmp_path / "run", {"config.yaml": "a: 2\n"}) == 2
    assert os.readlink(tmp_path / "run/.hydra") == "attempts/2/.hydra"
    assert (attempt_dir(tmp_path / "run", 1) / ".hydra/config.yaml").read_text() == "a: 1\n"
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    assert (moved / ".hydra/config.yaml").read_text() == "a: 2\n"


def test_what_is_not_a_number_does_not_count(tmp_path: Path) -> None:
    for name in ("7", "old", "3.bak"):
        (tmp_path / "attempts" / name).mkdir(parents=True)
    assert new_attempt(tmp_path, {}) == 8


def test_starts_at_the_same_time_get_different_numbers(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        numbers = list(threads.map(lambda _: new_attempt(tmp_path, {"config.yaml": ""}), range(24)))
    assert sorted(numbers) == list(range(1, 25))
    assert (tmp_path / ".hydra/config.yaml").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hydra", "attempts", "logs"]


def test_log_files_sort_by_rank() -> None:
    assert log_file(Path("run"), 3) == Path("run/logs/rank-00003.log")
