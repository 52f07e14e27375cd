"""Sweeps on a real cluster: shapes of their own, the losses of local runs, the true outcome of what fails, and resuming."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import BIN, Cluster, Submit, Sweep, contents

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]

SHAPES = ["parallel=ddp,dp_pp", "optim.lr=1e-3,3e-4", "resources.nodes=2", "resources.tasks_per_node=2"]
BRIEF = ["debug=tiny", "trainer.max_steps=4", "trainer.eval_every=null", "checkpoint.every_steps=null"]


@pytest.fixture(scope="module")
def shapes(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> tuple[Sweep, str]:
    """Two topologies and two learning rates on 2 x 2 ranks, waited for."""
    folder = tmp_path_factory.mktemp("shapes")
    launcher = ["-m", "hydra/launcher=dcp_slurm", "hydra.sweep.dir=sweep", "hydra.launcher.poll_s=0.5"]
    done = cluster.run(str(BIN / "dcp-runner"), *launcher, *BRIEF, *SHAPES, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return Sweep(cluster, folder / "sweep"), done.stdout


def losses(run: Path) -> list[tuple[float, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(line["loss"], line["grad_norm"]) for line in lines if "grad_norm" in line]


def test_every_job_has_its_shape_and_one_folder(shapes: tuple[Sweep, str]) -> None:
    sweep, printed = shapes
    assert [job["state"] for job in sweep.jobs] == ["done"] * 4
    assert [(job["nodes"], job["tasks_per_node"]) for job in sweep.jobs] == [(2, 2)] * 4
    assert printed.count(" done") >= 4
    for number in range(4):
        run = sweep.path / str(number)
        assert sorted(path.name for path in (run / "attempts").iterdir()) == ["1"]
        assert sorted(path.name for path in (run / "logs").iterdir()) == [f"rank-{rank:05d}.log" for rank in range(4)]
        assert sorted(path.name for path in (run / "checkpoints").glob("checkpoint-*")) == ["checkpoint-4"]
        assert (run / ".hydra" / "overrides.yaml").is_file()
        nodes = sweep.cluster.ask(
            "squeue", "--noheader", "--states=all", "--format=%D %C", f"--jobs={sweep.id(number)}"
        )
        assert nodes == "2 4"


def test_losses_are_those_of_local_processes(shapes: tuple[Sweep, str], tmp_path: Path) -> None:
    local = ["-m", "hydra/launcher=dcp_local", "hydra.sweep.dir=local", "hydra.launcher.poll_s=0.2"]
    cluster = shapes[0].cluster
    same = [text.replace("resources.nodes=2", "resources.nodes=1") for text in SHAPES[:-1]]
    done = cluster.run(
        str(BIN / "dcp-runner"), *local, *BRIEF, *same, "resources.tasks_per_node=4", cwd=tmp_path
    )  # the same ranks, on one node
    assert done.returncode == 0, done.stdout + done.stderr
    for number in range(4):
        found = losses(shapes[0].path / str(number))
        assert len(found) == 4
        assert found == losses(tmp_path / "local" / str(number))


HARMS = ["none-0", "none-1", "none-2", "raise", "kill", "stop"]
REASONS = {
    "raise": r"rank 1 \(n\d\) raised ValueError: boom",
    "kill": r"rank 1 \(n\d\) died: Killed \(reported by srun\)",
    "stop": r"rank 1 did not reach a collective .*; rank 0 \(n\d\) timed out waiting for it: Timed out waiting 5000ms",
}


@pytest.fixture(scope="module")
def harmed(submit: Submit, tmp_path_factory: pytest.TempPathFactory) -> tuple[Sweep, list[dict[str, Any]], list[str]]:
    """Six jobs, of which one raises, one is killed and one hangs, each after a save; and how it stood at the end."""
    marks = tmp_path_factory.mktemp("marks")
    harm = f"+callbacks.harm={{_target_: acts.Harm, step: 3, marks: {marks}}}"
    job = ["parallel=ddp", "parallel.dp=2", "trainer.max_steps=6", "checkpoint.every_steps=2", "parallel.timeout_s=5"]
    sweep = submit(*job, harm, f"+callbacks.harm.what={','.join(HARMS)}")
    rows = sweep.wait()
    return sweep, rows, [str(sweep.path / job["folder"]) for job in sweep.jobs]


@pytest.mark.parametrize("harm", HARMS)
def test_the_outcome_of_every_job_is_true(harmed: tuple[Sweep, list[dict[str, Any]], list[str]], harm: str) -> None:
    sweep, rows, _ = harmed
    row = rows[HARMS.index(harm)]
    if harm.startswith("none"):
        assert (row["state"], row["reason"]) == ("done", "")
    else:
        assert row["state"] == "failed"
        assert re.match(REASONS[harm], row["reason"]), row["reason"]
        assert sweep.cluster.state_of(sweep.id(row["job"])) in ("FAILED", "CANCELLED")
    assert sweep.pids(row["job"]) == {}, "no rank is still alive"


def test_a_sweep_is_resumed_where_it_failed(harmed: tuple[Sweep, list[dict[str, Any]], list[str]]) -> None:
    sweep, _, _ = harmed
    before = [job["ids"] for job in sweep.jobs]
    changed = sweep.cluster.run(
        str(BIN / "dcp-runner"), f"resume_sweep={sweep.path}", "optim.lr=0.5", cwd=sweep.path.parent
    )
    assert changed.returncode != 0 and "has changed since it was submitted" in changed.stdout + changed.stderr
    assert [job["ids"] for job in sweep.jobs] == before
    done = sweep.cluster.run(str(BIN / "dcp-runner"), f"resume_sweep={sweep.path}", cwd=sweep.path.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    again = [len(job["ids"]) - len(ids) for job, ids in zip(sweep.jobs, before, strict=True)]
    assert again == [0, 0, 0, 1, 1, 1]
    assert [row["state"] for row in sweep.wait()] == ["done"] * 6
    for number in (3, 4, 5):
        resumed = [line["step"] for line in sweep.events(number) if line.get("event") == "resumed"]
        assert resumed == [2], sweep.output(number)
    whole, gone_on = (contents(sweep.path / str(number) / "checkpoints" / "checkpoint-6") for number in (0, 4))
    assert [name for name in whole if whole[name] != gone_on[name]] == []


def test_a_hundred_jobs_are_submitted_in_seconds(submit: Submit) -> None:
    began = time.monotonic()
    sweep = submit(f"seed={','.join(map(str, range(100)))}")
    print(f"submitted within {time.monotonic() - began:.1f} s")
    states = {row["state"] for row in json.loads(sweep.command("status", "--json").stdout)}
    assert len(sweep.jobs) == 100 and states <= {"waiting", "running"}
    assert json.loads(sweep.command("cancel", "--json").stdout)["cancelled"] == list(range(100))
    assert {row["state"] for row in sweep.wait()} <= {"cancelled", "done"}


def test_a_world_that_does_not_fit_is_refused_before_anything_is_submitted(cluster: Cluster, tmp_path: Path) -> None:
    wrong = ["parallel=ddp", "parallel.dp=3", "resources.nodes=2", "resources.tasks_per_node=2"]
    done = cluster.run(str(BIN / "dcp-runner"), "hydra/launcher=dcp_slurm", "hydra.sweep.dir=s", *wrong, cwd=tmp_path)
    assert done.returncode == 2
    assert "dp 3 does not fit 4 ranks (resources.nodes x resources.tasks_per_node)" in done.stderr
    assert not (tmp_path / "s").exists()


def test_a_dry_run_shows_scripts_and_plans(cluster: Cluster, tmp_path: Path) -> None:
    shapes = ["parallel=ddp,dp_pp", "parallel.dp=2", "resources.nodes=2", "resources.time_min=7", "dry_run=true"]
    done = cluster.run(str(BIN / "dcp-runner"), "-m", "hydra/launcher=dcp_slurm", *shapes, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for text in ("--ntasks-per-node=1", "--ntasks-per-node=2", "--time=7", "--kill-on-bad-exit=1", "per_group:dp"):
        assert text in done.stdout
    assert list(tmp_path.iterdir()) == []


MINE = """
from pathlib import Path
from dcp_runner.train.callbacks import Callback

class Say(Callback):
    def __init__(self, file: str) -> None:
        self.file = Path(file)

    def on_start(self, trainer) -> None:
        self.file.write_text("as submitted")
"""


def test_the_code_that_runs_is_the_code_that_was_submitted(cluster: Cluster, tmp_path: Path) -> None:
    """The source is edited while the job waits."""
    repository, said = tmp_path / "repository", tmp_path / "said"
    repository.mkdir()
    (repository / "mine.py").write_text(MINE)
    (repository / ".gitignore").write_text("__pycache__/\n")
    cluster.run("git", "init", "-q", cwd=repository)
    launcher = ["hydra/launcher=dcp_slurm", "hydra.launcher.wait=false", "hydra.launcher.snapshot=true"]
    hold = ["hydra.launcher.additional_parameters={hold: true}", "hydra.sweep.dir=../sweep"]
    own = f"+callbacks.say={{_target_: mine.Say, file: {said}}}"
    done = cluster.run(str(BIN / "dcp-runner"), *launcher, *hold, *BRIEF, own, cwd=repository)
    assert done.returncode == 0, done.stderr
    (repository / "mine.py").write_text(MINE.replace("as submitted", "as edited"))
    sweep = Sweep(cluster, tmp_path / "sweep")
    assert sweep.jobs[0]["state"] == "waiting"
    cluster.ask("scontrol", "release", sweep.id())
    assert [row["state"] for row in sweep.wait()] == ["done"], sweep.output()
    assert said.read_text() == "as submitted"
    assert json.loads((sweep.path / "sweep.json").read_text())["code"]["new_files"] == [".gitignore", "mine.py"]
