"""Machines that fail under a job: it goes on elsewhere from its last commit, and nothing of it stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import LIMIT_S, Cluster, Submit, Sweep, contents

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(700)]

STEPS = 200
LONG = ["parallel=ddp", "parallel.dp=2", "trainer.max_steps=400", "checkpoint.every_steps=null"]
FAULTS = ["kill-node", "net", "kill-slurmd"]


def nodes_of(sweep: Sweep, number: int) -> list[str]:
    nodes = sweep.cluster.ask("squeue", "--noheader", "--array", "--format=%N", f"--jobs={sweep.id(number)}")
    return sweep.cluster.ask("scontrol", "show", "hostnames", nodes).split()


@pytest.fixture(scope="module")
def limited(submit: Submit) -> Sweep:
    """A job that needs several times its time limit of a minute; it runs beside the others."""
    slow = "+callbacks.slow={_target_: acts.Slow, seconds: 0.25}"
    limits = ["resources.time_min=1", "hydra.launcher.signal_delay_s=5", "resources.requeues=30"]
    return submit(slow, *limits, *LONG)


@pytest.fixture(scope="module")
def jobs(limited: Sweep, submit: Submit) -> Iterator[Sweep]:
    """Three jobs on two whole nodes each, under each of which the second node fails."""
    slow = "+callbacks.slow={_target_: acts.Slow}"
    shape = ["parallel=ddp", "parallel.dp=2", "resources.nodes=2", "resources.cpus_per_task=3", "parallel.timeout_s=60"]
    steps = [f"trainer.max_steps={STEPS}", "checkpoint.every_steps=20", "checkpoint.timeout_s=60"]
    sweep = submit(*shape, *steps, slow, "+callbacks.slow.seconds=0.2,0.201,0.202")
    cluster = sweep.cluster
    for number in range(len(FAULTS)):
        sweep.until_step(21, number)
    second = [nodes_of(sweep, number)[-1] for number in range(len(FAULTS))]
    assert len({*second}) == 3
    for fault, node in zip(FAULTS, second, strict=True):
        cluster.control(fault, node, *(["down"] if fault == "net" else []))
    yield sweep
    cluster.control("net", second[1], "up")
    for node in (second[0], second[2]):
        cluster.control("start-node", node)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_job_goes_on_elsewhere(jobs: Sweep, fault: str) -> None:
    number = FAULTS.index(fault)
    (row,) = jobs.wait(number)
    assert row["state"] == "done", jobs.output(number)
    assert row["attempts"] >= 2
    resumed = [line["step"] for line in jobs.events(number) if line.get("event") == "resumed"]
    first = {line["step"] for line in jobs.events(number) if line["attempt"] == 1 and "grad_norm" in line}
    assert resumed and 0 <= max(first) - resumed[0] <= 20, "no more is lost than the steps since the last save"
    assert {*jobs.made(number)} == {*range(1, STEPS + 1)}


def test_all_end_alike(jobs: Sweep) -> None:
    ends = [contents(jobs.path / str(number) / "checkpoints" / f"checkpoint-{STEPS}") for number in range(3)]
    assert all([name for name in end if end[name] != ends[0][name]] == [] for end in ends)


def test_no_process_stays_behind(jobs: Sweep) -> None:
    deadline = time.monotonic() + 60
    while alive := [jobs.pids(number) for number in range(3) if jobs.pids(number)]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.5)


def test_a_controller_that_is_restarted(limited: Sweep, jobs: Sweep, submit: Submit) -> None:
    """The job is not affected; meanwhile `status` reports that there is no answer, not that the job has failed."""
    cluster = limited.cluster
    sweep = submit(
        "+callbacks.slow={_target_: acts.Slow, seconds: 0.2}",
        "parallel=ddp",
        "parallel.dp=2",
        "trainer.max_steps=60",
        "checkpoint.every_steps=null",
    )
    sweep.until_step(2)
    _stop_controller(cluster)
    asked = sweep.command("status")
    assert asked.returncode == 3 and "the scheduler does not answer" in asked.stderr
    assert sweep.jobs[0]["state"] in ("waiting", "running")
    _start_controller(cluster)
    (row,) = sweep.wait()
    assert (row["state"], row["attempts"]) == ("done", 1), sweep.output()
    assert sweep.made() == list(range(1, 61))


def _stop_controller(cluster: Cluster) -> None:
    pid = int((cluster.state / "slurmctld.pid").read_text().split()[0])
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + LIMIT_S
    while "Z" not in _state(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _state(pid: int) -> str:
    """Z once it has ended, whether its parent has reaped it or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "Z"


def _start_controller(cluster: Cluster) -> None:
    command = ["slurmctld", "-D", "-f", str(cluster.state / "slurm.conf")]
    path = f"{cluster.env['PATH']}:/usr/sbin:/sbin"
    with (cluster.state / "slurmctld.out").open("ab") as log:
        made = subprocess.Popen(
            command, stdout=log, stderr=log, env=cluster.env | {"PATH": path}, start_new_session=True
        )
    started = Path(f"/proc/{made.pid}/stat").read_text().rpartition(")")[2].split()[19]
    (cluster.state / "slurmctld.pid").write_text(f"{made.pid} {started}\n")
    made.returncode = 0  # the cluster's script ends it
    deadline = time.monotonic() + LIMIT_S
    while cluster.run("squeue", "--noheader", limit_s=60).returncode:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_job_with_a_short_time_limit_gets_to_its_end(limited: Sweep, jobs: Sweep, submit: Submit) -> None:
    (row,) = limited.wait()
    assert row["state"] == "done", limited.output()
    assert row["attempts"] >= 3, "it was started again at least twice"
    assert limited.made() == list(range(1, 401))
    whole = submit(*LONG)
    assert whole.wait()[0]["attempts"] == 1
    one, other = (contents(sweep.path / "0" / "checkpoints" / "checkpoint-400") for sweep in (whole, limited))
    assert one.keys() == other.keys() and [name for name in one if one[name] != other[name]] == []
