"""Which jobs of a sweep remain: of a new, a resumed and a changed one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from where import SUPPORT


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dcp_runner", *arguments]
    environment = os.environ | {"PYTHONPATH": str(SUPPORT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=100)


def jobs(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "s/sweep.json").read_text())["jobs"]
    return found


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_changed_sweep_is_run_only_on_request(tmp_path: Path) -> None:
    launcher = ["hydra/launcher=dcp_local", "hydra.launcher.poll_s=0.2", "hydra.sweep.dir=s"]
    job = ["debug=tiny", "parallel=ddp", "parallel.dp=2", "trainer.max_steps=4", "trainer.eval_every=null"]
    save = ["checkpoint.every_steps=2", f"+callbacks.harm={{_target_: acts.Harm, step: 3, marks: {tmp_path}}}"]
    first = run(tmp_path, *launcher, *job, *save, "+callbacks.harm.what=none,raise")
    assert first.returncode != 0
    before = jobs(tmp_path)
    assert [job["state"] for job in before] == ["done", "failed"]

    refused = run(tmp_path, "resume_sweep=s", "trainer.max_steps=6")
    assert refused.returncode != 0
    assert (
        "job 1 has changed since it was submitted (before: trainer.max_steps=4; now: trainer.max_steps=6)"
        in refused.stderr
    )
    assert jobs(tmp_path) == before

    forced = run(tmp_path, "resume_sweep=s", "trainer.max_steps=6", "resume_sweep_changed=true")
    assert forced.returncode == 0, forced.stdout + forced.stderr
    done, again = jobs(tmp_path)
    assert done == before[0], "what is done is done"
    assert (again["state"], again["attempts"], len(again["ids"])) == ("done", 2, 2)
    assert "trainer.max_steps=6" in again["overrides"]
    assert not any("resume_sweep" in text for text in again["overrides"])
    lines = [json.loads(line) for line in (tmp_path / "s/1/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "grad_norm" in line] == [1, 2, 3, 3, 4, 5, 6]
