"""`verify_resume=N` says that a resume is bit for bit, or where it is not."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from runs import config, run_config

from dcp_runner.config.schema import ResumeRng
from dcp_runner.run.verify_resume import verify_resume


def verified(folder: Path, **options: Any) -> tuple[int, list[str]]:
    made = replace(config(), verify_resume=3, **options)
    return verify_resume(made, folder, lambda config, run_dir: max(run_config(config, run_dir, 1)))


def test_a_run_that_resumes_bit_for_bit(tmp_path: Path) -> None:
    code, (told,) = verified(tmp_path)
    assert code == 0 and told.startswith("BIT-EQUAL: 6 steps, and 3 + resume + 3")
    assert sorted(path.name for path in (tmp_path / "verify_resume-1").iterdir()) == ["resumed", "whole"]


def test_where_it_is_not_it_says_where_it_parts_first(tmp_path: Path) -> None:
    """New random numbers after the resume, and dropout."""
    code, (first, *lines) = verified(tmp_path, resume_rng=ResumeRng.reseed)
    assert code == 1 and first.startswith("NOT BIT-EQUAL")
    assert [line for line in lines if "at step" in line and "at step 4" not in line] == []
    assert any(line.startswith("  at step 4: loss ") for line in lines)
    assert any("in the last checkpoint: model: " in line and "(all)" in line for line in lines)
    assert not any("scheduler" in line for line in lines)


def test_a_run_that_fails_cannot_be_compared(tmp_path: Path) -> None:
    code, (told,) = verified(tmp_path, callbacks={"bad": {"_target_": "math.floor", "x": 1.5}})
    assert code == 1 and "nothing to compare" in told


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_command(tmp_path: Path) -> None:
    """Two ranks, started by the command; its exit code is the answer."""
    command = [sys.executable, "-m", "dcp_runner", "debug=tiny", "verify_resume=3", "name=a", "trainer.device=cpu"]
    command += ["parallel=ddp", "parallel.dp=2", "model.dropout=0.1", "resume_rng=reseed"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert ended.returncode == 1
    assert any(line.startswith("NOT BIT-EQUAL") for line in ended.stdout.splitlines())
