"""A resume shows the changed keys wherever the checkpoint and the run folders are."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from runs import config, steps

from dcp_runner.checkpoint.files.integrity import parse_manifest, read_manifest
from dcp_runner.checkpoint.loading.load import LoadReport
from dcp_runner.common.run_context import RunContext
from dcp_runner.config.convert import config_hash, to_plain
from dcp_runner.run.launched_config import changed_keys, checkpoint_root_of
from dcp_runner.run.train import train

QUICK: dict[str, Any] = {"trainer__eval_every": None, "checkpoint__every_steps": None}


def start(run_dir: Path, max_steps: int, dated: bool = False, **overrides: Any) -> None:
    """Train in this process, as one rank."""
    made = config(trainer__max_steps=max_steps, schedule__decay="constant", **QUICK, **overrides)
    attempt = len(list((run_dir / "attempts").glob("*"))) + 1
    (run_dir / "attempts" / str(attempt)).mkdir(parents=True)
    train(made, RunContext(run_dir, attempt, 0, 1, 0, 1, config_hash(made), to_plain(made), dated=dated))


def in_own_folder(base: Path) -> dict[str, Any]:
    start(base / "a", 1)
    return {"run_dir": base / "a"}


def moved(base: Path) -> dict[str, Any]:
    start(base / "a", 1)
    (base / "a").rename(base / "moved")
    return {"run_dir": base / "moved"}


def elsewhere(base: Path) -> dict[str, Any]:
    start(base / "a", 1, checkpoint__root=str(base / "disk"))
    return {"run_dir": base / "a", "checkpoint__root": str(base / "disk")}


def elsewhere_in_a_new_run_folder(base: Path) -> dict[str, Any]:
    """Both starts are attempt 1 of their run folder."""
    start(base / "monday", 1, dated=True, checkpoint__root=str(base / "disk"))
    return {"run_dir": base / "tuesday", "dated": True, "checkpoint__root": str(base / "disk")}


def moved_from_elsewhere(base: Path) -> dict[str, Any]:
    start(base / "a", 1, checkpoint__root=str(base / "disk"))
    (base / "disk").rename(base / "disk2")
    return {"run_dir": base / "a", "checkpoint__root": str(base / "disk2")}


def of_another_run(base: Path) -> dict[str, Any]:
    start(base / "a", 1)
    return {"run_dir": base / "b", "resume": str(base / "a")}


def of_another_run_with_its_root_elsewhere(base: Path) -> dict[str, Any]:
    start(base / "a", 1, checkpoint__root=str(base / "disk"))
    return {"run_dir": base / "b", "resume": str(base / "a")}


def a_single_copied_checkpoint(base: Path) -> dict[str, Any]:
    start(base / "a", 1)
    copied = shutil.copytree(base / "a" / "checkpoints" / "checkpoint-1", base / "copied")
    return {"run_dir": base / "b", "resume": str(copied)}


@pytest.mark.parametrize(
    "before",
    [
        elsewhere_in_a_new_run_folder,
        of_another_run_with_its_root_elsewhere,
        *(
            pytest.param(case, marks=pytest.mark.slow)
            for case in (
                in_own_folder,
                moved,
                elsewhere,
                moved_from_elsewhere,
                of_another_run,
                a_single_copied_checkpoint,
            )
        ),
    ],
)
def test_changed_keys_are_shown(
    before: Callable[[Path], dict[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    second = before(tmp_path)
    with caplog.at_level(logging.INFO):
        caplog.clear()
        start(max_steps=2, data__shuffle=True, trainer__clip_norm=0.5, **second)
    (resumed,) = (message for message in caplog.messages if message.startswith("RESUMED step=1"))
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in resumed.splitlines() if "│" in line]
    assert ["trainer.clip_norm", "1.0", "0.5", "new value"] in rows
    assert ["trainer.max_steps", "1", "2", "new value"] in rows
    assert list(steps(second["run_dir"]))[-1] == 2


def test_without_a_change_there_is_no_table(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Also with a value that JSON does not have."""
    start(tmp_path / "a", 1, trainer__clip_norm=float("inf"))
    path = tmp_path / "a/checkpoints/checkpoint-1"
    launched = parse_manifest(read_manifest(path)).origin["launched"]
    assert launched["trainer"]["clip_norm"] == "inf"
    with caplog.at_level(logging.INFO):
        start(tmp_path / "b", 2, trainer__clip_norm=float("inf"), resume=str(path))
    (resumed,) = (message for message in caplog.messages if message.startswith("RESUMED step=1"))
    assert "trainer.max_steps" in resumed and "trainer.clip_norm" not in resumed


def test_a_checkpoint_that_records_no_configuration(tmp_path: Path) -> None:
    """As one that was saved by a program with its own loop."""
    start(tmp_path / "a", 1)
    path = tmp_path / "a/checkpoints/checkpoint-1"
    manifest = replace(parse_manifest(read_manifest(path)), origin={})
    report = LoadReport(path, manifest, ())
    run = RunContext(tmp_path, 1, 0, 1, 0, 1, "another hash", {})
    assert "changed keys: unknown" in changed_keys(report, run, [])
    assert changed_keys(report, replace(run, config_hash=manifest.config), []) == ""


def test_where_the_checkpoints_of_a_run_folder_are(tmp_path: Path) -> None:
    """As its last start that has trained was configured."""
    root = tmp_path / "disk"
    start(tmp_path / "a", 1, checkpoint__root=str(root))
    (tmp_path / "a/attempts/2").mkdir()  # a start that was refused
    assert checkpoint_root_of(tmp_path / "a") == root
    assert checkpoint_root_of(root) == root
    start(tmp_path / "b", 1)
    assert checkpoint_root_of(tmp_path / "b") == tmp_path / "b/checkpoints"
