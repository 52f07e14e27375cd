"""A real SLURM cluster of seven nodes on this machine, for root on a Debian; see `cluster` beside this file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from where import SUPPORT

HERE = Path(__file__).parent
SCRIPT = HERE / "cluster"
LIMIT_S = 400.0
BIN = Path(sys.executable).parent


@dataclass
class Cluster:
    """The cluster, and how a person uses it."""

    state: Path
    env: dict[str, str] = field(default_factory=dict)

    def control(self, *arguments: str) -> str:
        """The script's own commands: kill-node n2, net n3 down, ..."""
        env = os.environ | {"SLURM_CLUSTER_DIR": str(self.state)}
        done = subprocess.run([SCRIPT, *arguments], env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def run(self, *command: str, cwd: Path | None = None, limit_s: float = LIMIT_S) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=cwd, env=self.env, capture_output=True, text=True, timeout=limit_s)

    def ask(self, *command: str) -> str:
        done = self.run(*command, limit_s=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def state_of(self, job: str) -> str:
        return self.ask("squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={job}")


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Up before the first test, down after the last."""
    made = Cluster(tmp_path_factory.mktemp("cluster"))
    made.control("up", "7")
    lines = [line.removeprefix("export ") for line in made.control("env").splitlines()]
    exported = dict(line.split("=", 1) for line in lines)
    path = f"{made.state}/bin:{BIN}:{os.environ['PATH']}"
    made.env = os.environ | {
        "SLURM_CONF": exported["SLURM_CONF"],
        "PATH": path,
        "PYTHONPATH": str(SUPPORT),
        "COLUMNS": "200",
    }
    made.env["OMP_NUM_THREADS"] = "1"
    yield made
    made.control("down")


@dataclass
class Sweep:
    """A sweep that was submitted."""

    cluster: Cluster
    path: Path

    @property
    def jobs(self) -> list[dict[str, Any]]:
        jobs: list[dict[str, Any]] = json.loads((self.path / "sweep.json").read_text())["jobs"]
        return jobs

    def id(self, number: int = 0) -> str:
        return str(self.jobs[number]["ids"][-1])

    def command(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.cluster.run(str(BIN / "dcp-runner"), name, str(self.path), *arguments)

    def wait(self, *numbers: int) -> list[dict[str, Any]]:
        """As `dcp-runner wait --json` reports it."""
        done = self.command("wait", *map(str, numbers), "--json", "--poll", "0.5")
        rows: list[dict[str, Any]] = json.loads(done.stdout)
        assert done.returncode == int(any(row["state"] != "done" for row in rows)), done.stderr
        return rows

    def events(self, number: int = 0) -> list[dict[str, Any]]:
        file = self.path / str(number) / "metrics.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def made(self, number: int = 0) -> list[int]:
        """Every step that was made, in order, one that was made twice twice."""
        return [line["step"] for line in self.events(number) if "grad_norm" in line]

    def until_started(self, number: int = 0) -> None:
        """Each rank has its process, no more."""
        deadline = time.monotonic() + LIMIT_S
        job = self.jobs[number]
        while len(self.pids(number)) < job["nodes"] * job["tasks_per_node"]:
            assert time.monotonic() < deadline, self.output(number)
            time.sleep(0.05)

    def until_step(self, step: int, number: int = 0) -> None:
        deadline = time.monotonic() + LIMIT_S
        while step not in self.made(number):
            assert time.monotonic() < deadline, self.output(number)
            time.sleep(0.1)

    def output(self, number: int = 0) -> str:
        folder = self.path / ".submitit" / self.id(number)
        logs = sorted((self.path / str(number)).glob("logs/*")) if (self.path / str(number)).exists() else []
        return "\n".join(
            f"== {file.name}\n{file.read_text()[-3000:]}" for file in [*sorted(folder.glob("*log*")), *logs]
        )

    def pids(self, number: int = 0) -> dict[int, int]:
        """Process ids of the tasks that run now, by rank."""
        found: dict[int, int] = {}
        raw = self.cluster.ask("squeue", "--noheader", "--array", "--Format=JobID", f"--jobs={self.id(number)}").strip()
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                command = (folder / "cmdline").read_bytes()
                lines = (folder / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            env = dict(line.split(b"=", 1) for line in lines if b"=" in line)
            is_task = env.get(b"SLURM_JOB_ID") == raw.encode() and b"SLURM_STEP_ID" in env
            if is_task and b"dcp_runner.launch.task" in command and not command.startswith(b"srun"):
                found[int(env[b"SLURM_PROCID"])] = int(folder.name)
        return found

    def kill(self, rank: int, number: int, signum: int = signal.SIGKILL) -> None:
        os.kill(self.pids(number)[rank], signum)


Submit = Callable[..., Sweep]


@pytest.fixture(scope="session")
def submit(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Submit:
    """Submits a sweep and does not wait for it."""

    def submitted(*overrides: str) -> Sweep:
        folder = tmp_path_factory.mktemp("sweep")
        quick = ["debug=tiny", "trainer.eval_every=null", "logger.every_steps=1000"]
        launcher = ["hydra/launcher=dcp_slurm", "hydra.launcher.wait=false", f"hydra.sweep.dir={folder / 'sweep'}"]
        done = cluster.run(str(BIN / "dcp-runner"), *quick, *launcher, *overrides, cwd=folder)
        assert done.returncode == 0, done.stdout + done.stderr
        return Sweep(cluster, folder / "sweep")

    return submitted


def contents(checkpoint: Path) -> dict[str, bytes]:
    """Every file of a checkpoint but its manifest, byte for byte."""
    files = (path for path in checkpoint.rglob("*") if path.is_file() and path.name != "checkpoint_manifest.json")
    return {path.relative_to(checkpoint).as_posix(): path.read_bytes() for path in files}
