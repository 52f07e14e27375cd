"""The real command, from a shell, on two real ranks: what it says and leaves behind when a rank dies or stops."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from where import SUPPORT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(150)]


def command(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    tiny = ("debug=tiny", "parallel=ddp", "parallel.dp=2", "checkpoint.every_steps=5", "name=run", "trainer.device=cpu")
    environment = os.environ | {"PYTHONPATH": str(SUPPORT)}
    line = [sys.executable, "-m", "dcp_runner", *tiny, *overrides]
    return subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def test_a_rank_hangs_before_a_save_and_the_same_command_goes_on(tmp_path: Path) -> None:
    callback = f"{{_target_: runs.KillAt, step: 10, ranks: [1], mark: {tmp_path}/mark, signum: {int(signal.SIGSTOP)}}}"
    overrides = ("checkpoint.timeout_s=3", "trainer.eval_every=null", f"+callbacks.kill={callback}")
    lost = command(tmp_path, *overrides)
    assert lost.returncode == 1, lost.stderr
    assert "rank 1: Silent: no answer within 3 s" in "\n".join(lost.stderr.splitlines()[-3:]), lost.stderr
    run = tmp_path / "outputs" / "run"
    assert [path.name for path in (run / "checkpoints").glob("checkpoint-*")] == ["checkpoint-5"]
    left = subprocess.run(["pgrep", "-f", f"{tmp_path}/mark"], capture_output=True, text=True, check=False)
    assert not left.stdout, "no rank is left alive"
    on = command(tmp_path, *overrides, "optim.lr=0.5", "logger.every_steps=2")
    assert on.returncode == 0, on.stderr
    assert "RESUMED step=5" in on.stdout
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in on.stdout.splitlines() if "│" in line]
    assert ["optimizer", "replicated", "replicated", "loaded"] in cells
    assert ["logger.every_steps", "1", "2", "new value"] in cells
    assert ["optim.lr", "0.001", "0.5"] in [row[:3] for row in cells]
    assert "resume_override=[optim.lr]" in on.stdout
    assert sorted(path.name for path in (run / "checkpoints").glob("*checkpoint-*")) == [
        f"checkpoint-{step}" for step in (10, 15, 20, 5)
    ]
    assert [path.name for path in (run / "checkpoints").glob(".*")] == [".owner-2"]


def test_one_command_trains_saves_and_says_how_to_go_on(tmp_path: Path) -> None:
    done = command(tmp_path)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    for text in (
        "replicated",
        "FRESH start",
        "SAVED step=20",
        "DONE. Checkpoints of steps [5, 10, 15, 20]",
        "name=run",
    ):
        assert text in done.stdout
