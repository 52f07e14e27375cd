"""A job that its scheduler stops saves, is started again, and goes on at the next step, as if nothing had happened."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from conftest import BIN, Cluster, Submit, Sweep, contents

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]

STEPS = 40
JOB = ["parallel=ddp", "parallel.dp=2", "data.workers=1", f"trainer.max_steps={STEPS}", "seed=3"]
NOW = "SIGTERM twice"
WAYS = ["at once", NOW, "USR2", "to one rank", "USR2, then SIGTERM", "scontrol requeue", "SIGTERM"]


@pytest.fixture(scope="module")
def jobs(submit: Submit) -> Sweep:
    """A job for each way to be stopped, which is done to it in the middle. The steps of one take long. The last one has
    the id of the whole array.
    """
    seconds = ",".join("6" if way == NOW else f"0.2{number}" for number, way in enumerate(WAYS))
    never = "checkpoint.every_steps=1000"
    sweep = submit(*JOB, never, "+callbacks.slow={_target_: acts.Slow}", f"+callbacks.slow.seconds={seconds}")

    def send(number: int, name: str) -> None:
        sweep.cluster.ask("scancel", f"--signal={name}", sweep.id(number))

    for number, way in sorted(enumerate(WAYS), key=lambda pair: pair[1] == NOW):
        if way == "at once":  # its ranks are importing
            sweep.until_started(number)
            send(number, "USR2")
            continue
        sweep.until_step(3, number)
        if way == "USR2":
            send(number, "USR2")
        elif way == "to one rank":
            sweep.kill(1, number, signal.SIGUSR1)
        elif way == "USR2, then SIGTERM":
            send(number, "USR2")
            send(number, "TERM")
        elif way == "scontrol requeue":
            sweep.cluster.ask("scontrol", "requeue", sweep.id(number))
        elif way == "SIGTERM":
            send(number, "TERM")
        else:
            send(number, "TERM")
            time.sleep(1.1)  # what comes within a second is the same request
            send(number, "TERM")
    return sweep


@pytest.fixture(scope="module")
def whole(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that is not stopped, on ranks of this machine."""
    folder = tmp_path_factory.mktemp("whole")
    quick = ["debug=tiny", "trainer.eval_every=null", f"hydra.run.dir={folder}"]
    done = cluster.run(str(BIN / "dcp-runner"), *quick, *JOB, "checkpoint.every_steps=1000")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("way", [way for way in WAYS if way != NOW])
def test_goes_on_at_the_next_step(jobs: Sweep, whole: Path, way: str) -> None:
    number = WAYS.index(way)
    (row,) = jobs.wait(number)
    assert row["state"] == "done", jobs.output(number)
    assert row["attempts"] == 2
    assert jobs.made(number) == list(range(1, STEPS + 1)), "no step is lost, none is made twice"
    resumed = [line for line in jobs.events(number) if line.get("event") == "resumed"]
    assert len(resumed) == 1 and resumed[0]["step"] < STEPS
    one, other = (contents(run / "checkpoints" / f"checkpoint-{STEPS}") for run in (jobs.path / str(number), whole))
    assert one.keys() == other.keys() and [name for name in one if one[name] != other[name]] == []


def test_a_second_request_means_now(jobs: Sweep) -> None:
    """It is not obeyed after the step, nor after a save: the run ends as it stands, and that is no success."""
    number = WAYS.index(NOW)
    (row,) = jobs.wait(number)
    assert row["state"] == "failed" and row["attempts"] == 1, jobs.output(number)
    assert len(jobs.made(number)) <= 5
    assert not list((jobs.path / str(number)).glob("checkpoints/checkpoint-*"))
    assert jobs.pids(number) == {}
