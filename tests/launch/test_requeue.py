"""Whether a job that was stopped is started again, asked of programs that stand in for SLURM's."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from dcp_runner.common.signals import STOP_SIGNALS, StopFlag
from dcp_runner.config.schema import RunConfig
from dcp_runner.launch.requeue import RESTARTS, RUN_AGAIN, requeue_if_stopped, restarts
from dcp_runner.sweep.current_job import start_of

TERM, INT, USR1, USR2 = (128 + number for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2))
SLURM = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0"}
LOCAL = {"SUBMITIT_EXECUTOR": "local"}


@dataclass
class Cluster:
    """SLURM's programs, as far as they matter here. Each notes its arguments, and does then what it is told to do."""

    folder: Path

    def program(self, name: str, script: str) -> None:
        path = self.folder / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >>{self.folder}/calls\n{script}\n')
        path.chmod(0o755)

    def calls(self, name: str = "") -> list[str]:
        noted = self.folder / "calls"
        return [line for line in (noted.read_text().splitlines() if noted.exists() else ()) if line.startswith(name)]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """One where job 7 runs and a requeue is granted."""
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    made = Cluster(tmp_path)
    made.program("squeue", "echo RUNNING")
    made.program("scontrol", "")
    return made


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    caplog.set_level(logging.INFO, "dcp_runner.launch.requeue")
    return lambda: caplog.text


@pytest.mark.parametrize("code", [TERM, USR1, USR2])
def test_a_job_that_was_stopped_is_requeued_once(cluster: Cluster, told: Callable[[], str], code: int) -> None:
    assert requeue_if_stopped(code, 1, SLURM) == code
    assert cluster.calls("scontrol") == ["scontrol requeue 7"]
    assert cluster.calls("squeue") == ["squeue --noheader --format=%T --jobs=7"]
    assert "REQUEUED job 7" in told() and "NOT" not in told()


@pytest.mark.parametrize("id", ["90", "91"])
def test_a_job_of_an_array_is_not_taken_for_the_array(cluster: Cluster, id: str) -> None:
    """SLURM gives one job of an array the id of the whole."""
    array = SLURM | {"SLURM_JOB_ID": id, "SLURM_ARRAY_JOB_ID": "90", "SLURM_ARRAY_TASK_ID": "4"}
    assert requeue_if_stopped(USR2, 1, array) == USR2
    assert cluster.calls("scontrol") == ["scontrol requeue 90_4"]
    assert cluster.calls("squeue") == ["squeue --noheader --format=%T --jobs=90_4"]


@pytest.mark.parametrize("code", [0, 1, 2, INT, 128 + signal.SIGKILL, -signal.SIGTERM, RUN_AGAIN])
@pytest.mark.parametrize("env", [SLURM, LOCAL])
def test_one_that_ended_otherwise_is_not(cluster: Cluster, env: dict[str, str], code: int) -> None:
    assert requeue_if_stopped(code, 1, env) == code
    assert cluster.calls() == []


@pytest.mark.parametrize("state", ["COMPLETING", "CANCELLED", "PENDING", ""])
def test_not_where_slurm_has_decided_already(cluster: Cluster, told: Callable[[], str], state: str) -> None:
    cluster.program("squeue", f"echo {state}")
    assert requeue_if_stopped(TERM, 1, SLURM) == TERM
    assert cluster.calls("scontrol") == []
    assert f"SLURM already reports job 7 as {state or 'ENDED'}" in told()


def test_a_squeue_that_fails_decides_nothing(cluster: Cluster, told: Callable[[], str]) -> None:
    cluster.program("squeue", "echo 'Socket timed out' >&2; exit 1")
    assert requeue_if_stopped(TERM, 1, SLURM) == TERM
    assert cluster.calls("scontrol") == ["scontrol requeue 7"]
    assert "REQUEUED job 7" in told() and "NOT" not in told()


@pytest.mark.parametrize(
    ("env", "limit", "asked"),
    [
        (SLURM, 0, False),
        (SLURM | {"SLURM_RESTART_COUNT": "0"}, 1, True),
        (SLURM | {"SLURM_RESTART_COUNT": "1"}, 1, False),
        (SLURM | {"SLURM_RESTART_COUNT": "2"}, 3, True),
        (SLURM | {"SLURM_RESTART_COUNT": "3"}, 3, False),
        (SLURM | {"SLURM_RESTART_COUNT": "12"}, 3, False),
    ],
)
def test_only_as_often_as_allowed(
    cluster: Cluster, told: Callable[[], str], env: dict[str, str], limit: int, asked: bool
) -> None:
    assert requeue_if_stopped(USR1, limit, env) == USR1
    assert len(cluster.calls("scontrol")) == asked
    if not asked:
        assert f"NOT REQUEUED: the job has been restarted {restarts(env)} times" in told()


@pytest.mark.parametrize("env", [{}, {"SLURM_JOB_ID": "7"}, {"SLURM_PROCID": "0"}])
def test_not_without_slurm(cluster: Cluster, told: Callable[[], str], env: dict[str, str]) -> None:
    assert requeue_if_stopped(TERM, 1, env) == TERM
    assert cluster.calls() == [] and told() == ""


@pytest.mark.parametrize(
    ("script", "reason"),
    [("echo 'Requested operation is disabled' >&2; exit 1", "operation is disabled"), ("exit 3", "exit code 3")],
)
def test_a_refusal_is_told(cluster: Cluster, told: Callable[[], str], script: str, reason: str) -> None:
    cluster.program("scontrol", script)
    assert requeue_if_stopped(USR2, 1, SLURM) == USR2
    assert "NOT REQUEUED: SLURM refused to requeue job 7" in told() and reason in told()


@pytest.mark.parametrize(("missing", "asked"), [("squeue", True), ("scontrol", False)])
def test_programs_that_are_missing_do_not_change_the_end(
    cluster: Cluster, told: Callable[[], str], monkeypatch: pytest.MonkeyPatch, missing: str, asked: bool
) -> None:
    monkeypatch.setenv("PATH", str(cluster.folder))
    (cluster.folder / missing).unlink()
    assert requeue_if_stopped(USR2, 1, SLURM) == USR2
    assert len(cluster.calls("scontrol")) == asked
    assert ("NOT REQUEUED" in told()) != asked


def test_the_requeue_does_not_end_the_one_that_asks(cluster: Cluster) -> None:
    """SLURM sends SIGTERM to all of the job: to the rank, and to the program that it has started."""
    cluster.program("scontrol", f"grep SigIgn /proc/self/status >{cluster.folder}/ignored\nkill -TERM $PPID")
    with StopFlag(own_session=True) as stop:
        assert requeue_if_stopped(TERM, 1, SLURM) == TERM
        assert stop.signal is None
        assert {signal.getsignal(number) for number in STOP_SIGNALS} == {stop._handle}
    ignored = int((cluster.folder / "ignored").read_text().split()[1], 16)
    assert all(ignored >> number - 1 & 1 for number in STOP_SIGNALS)


@pytest.mark.parametrize(
    ("code", "env", "expected"),
    [
        (USR2, {}, RUN_AGAIN),
        (USR1, {}, RUN_AGAIN),
        (TERM, {}, TERM),
        (USR2, {RESTARTS: "1"}, RUN_AGAIN),
        (USR2, {RESTARTS: "2"}, USR2),
        pytest.param(USR2, SLURM, RUN_AGAIN),
    ],
)
def test_a_local_job_tells_its_controller(cluster: Cluster, code: int, env: dict[str, str], expected: int) -> None:
    assert requeue_if_stopped(code, 2, LOCAL | env) == expected
    assert cluster.calls() == []


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, 0),
        ({"SLURM_RESTART_COUNT": "3"}, 3),
        ({RESTARTS: "2"}, 2),
        ({RESTARTS: "2", "SLURM_RESTART_COUNT": "3"}, 2),
        ({RESTARTS: "", "SLURM_RESTART_COUNT": ""}, 0),
    ],
)
def test_earlier_starts(env: dict[str, str], expected: int) -> None:
    assert restarts(env) == expected


RAW = OmegaConf.create({"name": "x"})


@pytest.mark.parametrize(
    ("env", "resume_sweep", "job", "again"),
    [
        ({}, None, "", False),
        ({"SLURM_JOB_ID": "5"}, None, "5", False),
        ({"SLURM_JOB_ID": "5", "SLURM_RESTART_COUNT": "0"}, None, "5", False),
        ({"SLURM_JOB_ID": "5", "SLURM_RESTART_COUNT": "1"}, None, "5", True),
        ({"SLURM_JOB_ID": "5", RESTARTS: "1"}, None, "5", True),
        ({"SLURM_JOB_ID": "5"}, "sweep", "5", True),
    ],
)
def test_what_a_start_is_a_start_of(env: dict[str, str], resume_sweep: str | None, job: str, again: bool) -> None:
    start = start_of(RAW, RunConfig(resume_sweep=resume_sweep), Path("x"), env)
    assert start == {"sweep": "", "job": job, "again": again, "dated": False}
