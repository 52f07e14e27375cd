"""A sweeper that chooses its next jobs by the results of the last ones: it gets them, or is told at once why not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

OPTIMISER = """
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

class Optimiser(BasicSweeper):
    \"\"\"Takes the better one of two learning rates, and then its half.\"\"\"

    def sweep(self, arguments):
        rates, first = ["0.0001", "0.05"], 0
        for _ in range(2):
            jobs = [[*arguments, f"optim.lr={rate}"] for rate in rates]
            returned = self.launcher.launch(jobs, initial_job_idx=first)
            values = [job.return_value for job in returned]
            print("VALUES", *values)
            best = rates[values.index(min(values))]
            rates, first = [str(float(best) / 2)], first + len(jobs)
"""


def optimise(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    (folder / "hydra_plugins/optimiser").mkdir(parents=True)
    (folder / "hydra_plugins/optimiser/__init__.py").write_text(OPTIMISER)
    sweeper = ["-m", "hydra.sweeper._target_=hydra_plugins.optimiser.Optimiser", "hydra.sweep.dir=s"]
    python = f"hydra.launcher.python=sh {folder / 'python.sh'} --"
    (folder / "python.sh").write_text(f'shift\ntouch {folder}/was_used\nexec {sys.executable} "$@"\n')
    quick = [python, "debug=tiny", "trainer.max_steps=6", "checkpoint.every_steps=null", "hydra.launcher.poll_s=0.2"]
    command = [sys.executable, "-m", "dcp_runner", *sweeper, "hydra/launcher=dcp_local", *quick, *overrides]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100)


@pytest.mark.slow
def test_it_gets_the_last_value_of_the_metric(tmp_path: Path) -> None:
    done = optimise(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    told = [float(word) for line in done.stdout.splitlines() if "VALUES" in line for word in line.split()[1:]]
    lines = [(tmp_path / f"s/{number}/metrics.jsonl").read_text().splitlines() for number in range(3)]
    last = [[json.loads(line)["eval_loss"] for line in of_job if "eval_loss" in line][-1] for of_job in lines]
    assert told == last and told[1] < told[0]
    rates = [job["overrides"][-1] for job in json.loads((tmp_path / "s/sweep.json").read_text())["jobs"]]
    assert rates == ["optim.lr=0.0001", "optim.lr=0.05", "optim.lr=0.025"]
    assert (tmp_path / "was_used").exists(), "hydra.launcher.python"
    assert done.stdout.count("job 0 done") == 1, "what has ended is not told again with the next jobs"


def test_without_an_evaluation_it_is_told_which_metric_there_is(tmp_path: Path) -> None:
    done = optimise(tmp_path, "trainer.eval_every=null")
    assert done.returncode != 0
    assert "optimized_metric=eval_loss: nothing is evaluated" in done.stderr
    assert "take optimized_metric=loss" in done.stderr
    assert not (tmp_path / "s/sweep.json").exists()
