"""A job of this machine that is told to stop saves, is started again, and goes on at the next step."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from where import SUPPORT

from dcp_runner.launch.requeue import RUN_AGAIN
from hydra_plugins.dcp_launcher._submit import task_command


def made(run: Path) -> list[int]:
    """Every step that was made, in order."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines if "grad_norm" in line]


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_local_job_with_a_short_time_limit_gets_to_its_end(tmp_path: Path) -> None:
    job = ["debug=tiny", "parallel=ddp", "parallel.dp=2", "trainer.eval_every=null", "checkpoint.every_steps=null"]
    slow = ["trainer.max_steps=60", "+callbacks.slow={_target_: acts.Slow, seconds: 0.4}"]
    limit = ["resources.time_min=1", "hydra.launcher.signal_delay_s=42"]
    command = [sys.executable, "-m", "dcp_runner", "hydra/launcher=dcp_local", "hydra.sweep.dir=sweep"]
    environment = os.environ | {"PYTHONPATH": str(SUPPORT)}
    done = subprocess.run(
        [*command, *job, *slow, *limit], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (record,) = json.loads((tmp_path / "sweep" / "sweep.json").read_text())["jobs"]
    assert record["state"] == "done" and record["attempts"] >= 2
    assert made(tmp_path / "sweep/0") == list(range(1, 61))


SAYS = """
import sys
from dcp_runner.common.signals import pending_signal
sys.modules["dcp_runner.launch.submitit_private"] = sys.modules[__name__]
def submitit_main():
    print("asked", pending_signal())
sys.argv = ["task", "folder"]
from dcp_runner.launch.task import main
main()
"""


@pytest.mark.parametrize("notice", [None, signal.SIGUSR1, signal.SIGUSR2])
def test_a_notice_that_comes_before_python_is_held_back(tmp_path: Path, notice: int | None) -> None:
    """A Python that takes its time to start: until somebody writes a line."""
    (tmp_path / "python").write_text(f"#!/bin/sh\necho begun\nread line\nexec {sys.executable} says.py\n")
    (tmp_path / "python").chmod(0o755)
    (tmp_path / "says.py").write_text(SAYS)
    command = shlex.split(task_command(tmp_path, "./python"))
    with subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as task:
        assert task.stdout and task.stdout.readline() == "begun\n"
        if notice:
            task.send_signal(notice)
        assert task.communicate("go\n", timeout=60)[0] == f"asked {notice and int(notice)}\n"
    assert task.returncode == 0


@pytest.mark.slow
@pytest.mark.timeout(200)
@pytest.mark.parametrize(("ranks", "notice"), [(1, signal.SIGUSR1), (2, signal.SIGUSR2)])
def test_a_notice_that_comes_before_the_job_is_even_read(tmp_path: Path, ranks: int, notice: int) -> None:
    """It is obeyed at the first step boundary. The job is one whose controller never comes to starting it."""
    job = ["debug=tiny", "parallel=ddp", f"parallel.dp={ranks}", "trainer.eval_every=null", "trainer.max_steps=3"]
    launcher = ["hydra/launcher=dcp_local", "hydra.launcher.wait=false", "hydra.launcher.setup=[false]"]
    command = [sys.executable, "-m", "dcp_runner", "hydra.sweep.dir=sweep", *launcher, *job]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=60)
    (record,) = json.loads((tmp_path / "sweep" / "sweep.json").read_text())["jobs"]
    (id,) = record["ids"]
    pickle = tmp_path / f"sweep/.submitit/{id}/{id}_submitted.pkl"
    environment = os.environ | {"SUBMITIT_EXECUTOR": "local", "SUBMITIT_LOCAL_JOB_ID": id}
    task = [sys.executable, "-u", "-m", "dcp_runner.launch.task", str(tmp_path / "sweep/.submitit/%j")]

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(task, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)

    away = pickle.rename(tmp_path / "away")
    with start() as first:
        assert first.stdout is not None
        assert any("Loading pickle" in line for line in first.stdout)
        first.send_signal(notice)
        away.rename(pickle)
        told = first.communicate(timeout=90)
    assert first.returncode == RUN_AGAIN, told
    assert made(tmp_path / "sweep/0") == [1]
    with start() as second:
        assert second.wait(90) == 0
    assert made(tmp_path / "sweep/0") == [1, 2, 3]
