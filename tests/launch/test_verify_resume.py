"""`verify_resume=N` says that a resume is bit for bit, or where it is not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(120)


def verify(folder: Path, *overrides: str) -> tuple[int, list[str]]:
    command = [sys.executable, "-m", "dcp_runner", "debug=tiny", "verify_resume=3", "name=a", "trainer.device=cpu"]
    ended = subprocess.run([*command, *overrides], cwd=folder, capture_output=True, text=True, timeout=100)
    return ended.returncode, ended.stdout.splitlines()


@pytest.mark.slow
def test_a_run_that_resumes_bit_for_bit(tmp_path: Path) -> None:
    code, lines = verify(tmp_path, "parallel=ddp", "parallel.dp=2", "model.dropout=0.1")
    assert code == 0 and lines[-1].startswith("BIT-EQUAL: 6 steps, and 3 + resume + 3")
    runs = tmp_path / "outputs" / "a" / "verify_resume-1"
    assert sorted(path.name for path in runs.iterdir()) == ["resumed", "whole"]


def test_where_it_is_not_it_says_where_it_parts_first(tmp_path: Path) -> None:
    """New random numbers after the resume, and dropout."""
    code, lines = verify(tmp_path, "model.dropout=0.1", "resume_rng=reseed")
    said = lines[next(number for number, line in enumerate(lines) if line.startswith("NOT BIT-EQUAL")) :]
    assert code == 1
    assert [line for line in said if "at step" in line and "at step 4" not in line] == []
    assert any(line.startswith("  at step 4: loss ") for line in said)
    assert any("in the last checkpoint: model at" in line and "attention.key.weight (all)" in line for line in said)
    assert not any("scheduler" in line for line in said)
