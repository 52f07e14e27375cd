"""A job of this machine that needs more than its time limit saves, is started again, and goes on at the next step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ACTS = Path(__file__).parents[1] / "slurm"


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_local_job_with_a_short_time_limit_gets_to_its_end(tmp_path: Path) -> None:
    job = ["debug=tiny", "parallel=ddp", "parallel.dp=2", "trainer.eval_every=null", "checkpoint.every_steps=null"]
    slow = ["trainer.max_steps=60", "+callbacks.slow={_target_: acts.Slow, seconds: 0.4}"]
    limit = ["resources.time_min=1", "hydra.launcher.signal_delay_s=42"]
    command = [sys.executable, "-m", "dcp_runner", "hydra/launcher=dcp_local", "hydra.sweep.dir=sweep"]
    environment = os.environ | {"PYTHONPATH": str(ACTS)}
    done = subprocess.run(
        [*command, *job, *slow, *limit], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (record,) = json.loads((tmp_path / "sweep" / "sweep.json").read_text())["jobs"]
    assert record["state"] == "done" and record["attempts"] >= 2
    lines = [json.loads(line) for line in (tmp_path / "sweep/0/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "grad_norm" in line] == list(range(1, 61))
