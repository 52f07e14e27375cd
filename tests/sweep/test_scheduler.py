"""What a scheduler reports about jobs: programs that stand in for SLURM's, and real processes."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from dcp_runner.sweep.scheduler import Local, SchedulerUnavailable, Slurm, scheduler_of


@dataclass
class Cluster:
    """SLURM's programs. Each records its arguments, and then runs a script."""

    folder: Path

    def program(self, name: str, script: str) -> None:
        path = self.folder / name
        path.write_text(f'#!/bin/sh\necho "$*" >>{self.folder}/{name}.calls\n{script}\n')
        path.chmod(0o755)

    def answers(self, name: str, *lines: str) -> None:
        self.program(name, "\n".join(f"echo '{line}'" for line in lines))

    def calls(self, name: str) -> list[str]:
        calls = self.folder / f"{name}.calls"
        return calls.read_text().splitlines() if calls.exists() else []


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """One that knows no job and has no accounting."""
    monkeypatch.setenv("PATH", str(tmp_path))
    made = Cluster(tmp_path)
    made.answers("squeue")
    return made


def test_the_controller_knows_better_than_accounting(cluster: Cluster) -> None:
    cluster.answers("squeue", "12|RUNNING", "13|PENDING")
    cluster.answers("sacct", "14|COMPLETED")
    assert Slurm().states(["12", "13", "14"]) == {"12": "RUNNING", "13": "PENDING", "14": "COMPLETED"}
    assert [call.split()[-1] for call in cluster.calls("squeue")] == ["--jobs=12,13,14"]
    assert [call.split()[-1] for call in cluster.calls("sacct")] == ["--jobs=14"], "only what squeue does not know"


def test_what_accounting_says_unasked_does_not_count(cluster: Cluster) -> None:
    cluster.answers("squeue", "12_3|RUNNING")
    cluster.answers("sacct", "12_0|COMPLETED", "12_3|NODE_FAIL")
    assert Slurm().states(["12_0", "12_3"]) == {"12_0": "COMPLETED", "12_3": "RUNNING"}


def test_accounting_is_not_asked_without_need(cluster: Cluster) -> None:
    cluster.answers("squeue", "12|COMPLETED")
    cluster.answers("sacct", "12|FAILED")
    assert Slurm().states(["12"]) == {"12": "COMPLETED"}
    assert cluster.calls("sacct") == []


def test_nothing_is_asked_about_no_job(cluster: Cluster) -> None:
    assert Slurm().states([]) == {}
    Slurm().cancel([])
    assert cluster.calls("squeue") == []


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        ("12|CANCELLED by 0", "CANCELLED"),
        ("12|OUT_OF_MEMORY", "OUT_OF_MEMORY"),
        ("12|", None),
        ("", None),
        ("13|FAILED", None),
        ("12|FAILED|1:0", None),
    ],
)
def test_states_of_accounting(cluster: Cluster, answer: str, state: str | None) -> None:
    cluster.answers("sacct", answer)
    assert Slurm().states(["12"]).get("12") == state


def test_jobs_of_an_array(cluster: Cluster) -> None:
    cluster.answers("squeue", "12_3|RUNNING", "12_4|PENDING", "12_9|RUNNING", "15|COMPLETING")
    cluster.answers("sacct", "12_0|COMPLETED")
    words = Slurm().states(["12_3", "12_4", "12_0", "15"])
    assert words == {"12_3": "RUNNING", "12_4": "PENDING", "12_0": "COMPLETED", "15": "COMPLETING"}
    (queued,) = cluster.calls("squeue")
    assert "--array" in queued.split() and queued.endswith("--jobs=12,15")
    assert cluster.calls("sacct")[0].endswith("--jobs=12_0")


def test_an_array_that_is_cancelled_before_its_first_job_starts(cluster: Cluster) -> None:
    cluster.answers("squeue", "12|CANCELLED", "13_0|RUNNING", "13|CANCELLED")
    words = Slurm().states(["12_0", "12_1", "13_0", "13_1"])
    assert words == {"12_0": "CANCELLED", "12_1": "CANCELLED", "13_0": "RUNNING", "13_1": "CANCELLED"}


def test_without_accounting_a_job_that_squeue_has_forgotten_is_unknown(cluster: Cluster) -> None:
    cluster.answers("squeue", "13|RUNNING")
    assert Slurm().states(["12", "13"]) == {"13": "RUNNING"}
    cluster.program("sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")
    assert Slurm().states(["12", "13"]) == {"13": "RUNNING"}


def test_squeue_does_not_know_a_single_job(cluster: Cluster) -> None:
    cluster.program("squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    assert Slurm().states(["12"]) == {}
    cluster.answers("sacct", "12|TIMEOUT")
    assert Slurm().states(["12"]) == {"12": "TIMEOUT"}


@pytest.mark.parametrize("accounting", [True, False])
@pytest.mark.parametrize(
    ("script", "message"),
    [("echo 'Unable to contact slurm controller' >&2; exit 1", "Unable to contact"), ("exit 3", "code 3")],
)
def test_a_controller_that_does_not_answer_says_nothing_about_jobs(
    cluster: Cluster, script: str, message: str, accounting: bool
) -> None:
    cluster.program("squeue", script)
    if accounting:
        cluster.answers("sacct", "12|NODE_FAIL")
    with pytest.raises(SchedulerUnavailable, match=message):
        Slurm().states(["12"])


def test_slurm_is_not_there(cluster: Cluster) -> None:
    (cluster.folder / "squeue").unlink()
    with pytest.raises(SchedulerUnavailable, match="squeue"):
        Slurm().states(["12"])


def test_scancel_gets_all_jobs_at_once(cluster: Cluster) -> None:
    cluster.answers("scancel")
    assert Slurm().cancel(["12_3", "15"]) == ""
    assert cluster.calls("scancel") == ["12_3 15"]


@pytest.mark.parametrize(
    ("script", "expected"),
    [("echo 'MaxArraySize            = 77'", 77), ("echo 'JobRequeue = 1'", 1001), ("exit 1", 1001), (None, 1001)],
)
def test_how_long_an_array_may_be(cluster: Cluster, script: str | None, expected: int) -> None:
    if script:
        cluster.program("scontrol", script)
    assert Slurm().longest_array() == expected


@pytest.mark.parametrize(
    ("script", "message"), [("echo 'Access denied' >&2; exit 1", "Access denied"), ("exit 3", "3")]
)
def test_what_scancel_refuses_is_returned(cluster: Cluster, script: str, message: str) -> None:
    cluster.program("scancel", script)
    assert message in Slurm().cancel(["12"])


@contextmanager
def process(script: str, *arguments: Path) -> Iterator[subprocess.Popen[str]]:
    """A shell that runs this, with paths in its command line; it has started when it has written a line."""
    command = ["sh", "-c", script, "sh", *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout
        running.stdout.readline()
        try:
            yield running
        finally:
            running.kill()


WAITS = "echo started; read line"


def test_a_local_job_is_a_process_that_knows_the_folder(tmp_path: Path) -> None:
    with process(WAITS, tmp_path / ".submitit/%j") as ours, process(WAITS, tmp_path.parent) as other:
        ids = [str(ours.pid), str(other.pid)]
        assert Local(tmp_path).states(ids) == {ids[0]: "RUNNING"}
        assert Local(tmp_path).states([]) == {}
        ours.terminate()
        ours.wait()
        assert Local(tmp_path).states(ids) == {}


def test_a_job_that_has_ended_is_unknown_before_it_is_reaped(tmp_path: Path) -> None:
    with process("exec >&-; read line", tmp_path) as ours:
        assert ours.stdin
        ours.stdin.close()
        os.waitid(os.P_PID, ours.pid, os.WEXITED | os.WNOWAIT)
        assert Local(tmp_path).states([str(ours.pid)]) == {}


def test_a_narrow_terminal_does_not_hide_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    with process(WAITS, tmp_path) as ours:
        assert Local(tmp_path).states([str(ours.pid)]) == {str(ours.pid): "RUNNING"}


def test_another_name_of_the_folder_finds_it_too(tmp_path: Path) -> None:
    (tmp_path / "sweep").mkdir()
    (tmp_path / "link").symlink_to("sweep")
    with process(WAITS, tmp_path / "sweep/.submitit/%j") as ours:
        assert Local(tmp_path / "link").states([str(ours.pid)]) == {str(ours.pid): "RUNNING"}


def test_cancel_ends_ours_only(tmp_path: Path) -> None:
    with process(WAITS, tmp_path) as ours, process(WAITS, tmp_path.parent) as other:
        Local(tmp_path).cancel([str(ours.pid), str(other.pid)])
        assert ours.wait(10) == -signal.SIGTERM
        assert other.poll() is None
        assert Local(tmp_path).states([str(ours.pid), str(other.pid)]) == {str(ours.pid): "CANCELLED"}


def test_cancel_reaches_the_controller_below_its_shell(tmp_path: Path) -> None:
    """Submitit starts a controller with a setup as `sh -c 'setup && python ...'`. It signals its tasks, and then ends."""
    controller = "trap 'echo stopping; exit 3' TERM; echo started; read line"
    with process(f'true && sh -c "{controller}" sh $1; echo exited with $?; exit 4', tmp_path) as shell:
        Local(tmp_path).cancel([str(shell.pid)])
        assert shell.wait(10) == 4
        assert shell.stdout and shell.stdout.read().split("\n") == ["stopping", "exited with 3", ""]


def test_cancelling_what_has_ended_does_nothing(tmp_path: Path) -> None:
    with process("echo started", tmp_path) as ours:
        ours.wait(10)
    Local(tmp_path).cancel([str(ours.pid)])


def test_schedulers_have_names(tmp_path: Path) -> None:
    assert isinstance(scheduler_of("slurm", tmp_path), Slurm)
    assert isinstance(scheduler_of("local", tmp_path), Local)
