"""Launching a sweep: what it leaves as it was, and results for a sweeper that chooses its next jobs by them."""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_module
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.types import HydraContext, RunMode

from hydra_plugins.dcp_launcher._launch import SubmissionError

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
    values = [float(text) for line in done.stdout.splitlines() if "VALUES" in line for text in line.split()[1:]]
    lines = [(tmp_path / f"s/{number}/metrics.jsonl").read_text().splitlines() for number in range(3)]
    last = [[json.loads(line)["eval_loss"] for line in of_job if "eval_loss" in line][-1] for of_job in lines]
    assert values == last and values[1] < values[0]
    rates = [job["overrides"][-1] for job in json.loads((tmp_path / "s/sweep.json").read_text())["jobs"]]
    assert rates == ["optim.lr=0.0001", "optim.lr=0.05", "optim.lr=0.025"]
    assert (tmp_path / "was_used").exists(), "hydra.launcher.python"
    assert done.stdout.count("job 0 done") == 1, "what has ended is not values again with the next jobs"


@pytest.mark.slow
def test_without_an_evaluation_the_report_names_a_metric_that_there_is(tmp_path: Path) -> None:
    done = optimise(tmp_path, "trainer.eval_every=null")
    assert done.returncode != 0
    assert "optimized_metric=eval_loss: nothing is evaluated" in done.stderr
    assert "set optimized_metric=loss" in done.stderr
    assert not (tmp_path / "s/sweep.json").exists()


# -- what a sweep leaves as it was -------------------------------------------------------------------------------------


def global_state() -> dict[str, Any]:
    """What a launcher could change in its process."""
    loggers = [logging.getLogger(), *(logging.getLogger(name) for name in sorted(logging.root.manager.loggerDict))]
    return {
        "gc": (gc.isenabled(), gc.get_freeze_count(), gc.get_threshold()),
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "environment": dict(os.environ),
        "cwd": os.getcwd(),
        "path": list(sys.path),
        "arguments": list(sys.argv),
        "hydra": HydraConfig.instance().cfg,
        "root logger": (logging.root.level, list(logging.root.handlers)),
        "levels": {logger.name: logger.level for logger in loggers if logger.level},
    }


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Runs a sweep in this process, as Hydra does; SLURM's programs are stand-ins."""
    monkeypatch.chdir(tmp_path)
    programs = {"srun": "", "scontrol": "", "squeue": "", "sbatch": "echo Submitted batch job 7"}
    for name, script in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(sys, "argv", ["dcp-runner"])

    def run(*overrides: str, launcher: str = "dcp_slurm") -> None:
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        options = [f"hydra/launcher={launcher}", f"hydra.sweep.dir={tmp_path}/s", "hydra.launcher.wait=false"]
        cfg = hydra.compose_config("config", [*options, *overrides], RunMode.MULTIRUN, with_log_configuration=False)
        context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks())
        plugins = Plugins.instance()
        sweeper = plugins.instantiate_sweeper(config=cfg, hydra_context=context, task_function=lambda cfg: None)
        sweeper.sweep(arguments=list(cfg.hydra.overrides.task))

    with initialize_config_module("dcp_runner.conf", version_base="1.3"):
        yield run
    gc.enable()  # for the tests that follow, if this one has failed


@pytest.mark.parametrize(
    ("overrides", "error"),
    [
        (["dry_run=true"], None),
        (["seed=0,1"], None),
        (["parallel=ddp", "parallel.dp=3", "resources.tasks_per_node=2"], SubmissionError),
        (["optim.lr=1,2", "no_such_key=1,2"], HydraException),
    ],
    ids=["dry", "submitted", "refused", "not composed"],
)
def test_a_sweep_leaves_its_process_as_it_was(
    sweep: Callable[..., None], tmp_path: Path, overrides: list[str], error: type[Exception] | None
) -> None:
    before = global_state()
    if error is None:
        sweep(*overrides)
    else:
        with pytest.raises(error):
            sweep(*overrides)
    assert global_state() == before
    assert (tmp_path / "s/sweep.json").exists() == (overrides == ["seed=0,1"])


def test_a_submission_that_fails_leaves_its_process_as_it_was(sweep: Callable[..., None], tmp_path: Path) -> None:
    (tmp_path / "sbatch").write_text("#!/bin/sh\necho 'Invalid account' >&2; exit 1\n")
    before = global_state()
    with pytest.raises(SubmissionError, match="slurm: the submission failed") as failed:
        sweep("seed=0,1")
    assert "Invalid account" in str(failed.value) and "hydra/launcher=dcp_local" in str(failed.value)
    assert global_state() == before


def test_all_problems_are_in_one_report(sweep: Callable[..., None], tmp_path: Path) -> None:
    with pytest.raises(SubmissionError) as refused:
        sweep("data.batch_size=31,33", "parallel=ddp", "parallel.dp=2", "resources.time_min=1")
    lines = str(refused.value).splitlines()
    assert lines[0] == "4 problems; nothing was submitted:"
    assert [line[:10] for line in lines[1:]] == ["  * job 0:", "  * job 0:", "  * job 1:", "  * job 1:"]
    assert not (tmp_path / "s/sweep.json").exists()


def test_ids_are_recorded(sweep: Callable[..., None], tmp_path: Path) -> None:
    sweep("seed=0,1", "resources.time_min=9")
    jobs = json.loads((tmp_path / "s/sweep.json").read_text())["jobs"]
    assert [(job["ids"], job["state"]) for job in jobs] == [(["7_0"], "waiting"), (["7_1"], "waiting")]
