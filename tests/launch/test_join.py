"""Ranks that torchrun or srun has started: only rank 0 enters Hydra, and all end alike."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commands import Command, ours
from torch.distributed import TCPStore
from where import SUPPORT

pytestmark = pytest.mark.timeout(120)
Start = Callable[..., list[Command]]
SIZE = 3
DDP = ["parallel=ddp", "name=run", "data.batch_size=3"]


BOTH = pytest.mark.parametrize("start", ["torchrun", "srun"], indirect=True)
SRUN = pytest.mark.parametrize("start", ["srun"], indirect=True)


@pytest.fixture
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Start]:
    """Starts one command as three ranks; torchrun's agent (this process) hosts the store, under srun rank 0 does."""
    servers: list[TCPStore] = []
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    if request.param == "srun":
        listener.close()

    def environment(rank: int) -> dict[str, str]:
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
        if request.param == "torchrun":
            own = {"RANK": str(rank), "WORLD_SIZE": str(SIZE), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(SIZE)}
            return meeting | own | {"TORCHELASTIC_USE_AGENT_STORE": "True"}
        return meeting | {
            "SLURM_PROCID": str(rank),
            "SLURM_LOCALID": str(rank),
            "SLURM_NODEID": "0",
            "SLURM_STEP_ID": "0",
            "SLURM_STEP_NUM_TASKS": str(SIZE),
            "SLURM_STEP_TASKS_PER_NODE": str(SIZE),
        }

    def go(entry: str, *arguments: str, seeds: tuple[int, ...] = ()) -> list[Command]:
        """`seeds`: what the program of each rank makes of its configuration."""
        environments = [environment(rank) for rank in range(SIZE)]
        for rank, seed in enumerate(seeds):
            environments[rank]["TEST_SEED"] = str(seed)
        commands = [Command(tmp_path, ours(entry), list(arguments), environments[r], tag=str(r)) for r in range(SIZE)]
        started = [command.start() for command in commands]
        if request.param == "torchrun":  # after the forks, because the store has a thread
            served = {"is_master": True, "wait_for_workers": False, "master_listen_fd": listener.detach()}
            servers.append(TCPStore("127.0.0.1", port, **served))
        return started

    yield go
    servers.clear()
    listener.close()


def codes(commands: list[Command]) -> list[int]:
    return [command.wait() for command in commands]


@BOTH
def test_one_folder_and_one_configuration(start: Start, tmp_path: Path) -> None:
    """The default name has the time in it: two ranks that compose for themselves would have two folders."""
    commands = start("meet", "parallel=ddp", "data.batch_size=3")
    assert codes(commands) == [0, 0, 0], commands[0].err
    (run,) = tmp_path.glob("outputs/*/*")
    facts = [(run / f"fact-{rank}").read_text().split() for rank in range(SIZE)]
    assert [fact[:5] for fact in facts] == [[str(r), "3", str(r), "3", "1"] for r in range(SIZE)]
    assert len({fact[5] for fact in facts}) == len({fact[6] for fact in facts}) == 1
    assert len(list(tmp_path.rglob("config.yaml"))) == 1
    assert len(list((run / "logs").iterdir())) == SIZE
    assert [command.out.count("\n") for command in commands] == [1, 0, 0]


@SRUN
def test_a_bad_command_line_is_reported_once_and_ends_all(start: Start, tmp_path: Path) -> None:
    commands = start("meet", "trainr.max_steps=1", "parallel=dpp", "seed=x")
    assert codes(commands) == [2, 2, 2]
    assert commands[0].err.startswith("3 problems, nothing was started:")
    assert [command.err for command in commands[1:]] == ["", ""]
    assert not (tmp_path / "outputs").exists()


@SRUN
def test_degrees_that_do_not_fit_the_ranks(start: Start, tmp_path: Path) -> None:
    commands = start("meet", "parallel=ddp", "parallel.dp=4")
    assert codes(commands) == [2, 2, 2]
    assert "dp 4 does not fit 3 ranks" in commands[0].err
    assert not (tmp_path / "outputs").exists()


@pytest.mark.slow
@SRUN
def test_help_keeps_nobody_waiting(start: Start) -> None:
    commands = start("meet", "--help")
    assert codes(commands) == [0, 0, 0]
    assert commands[0].out and not commands[1].out


@SRUN
def test_a_rank_raises(start: Start, tmp_path: Path) -> None:
    commands = start("raises", *DDP)
    assert codes(commands) == [1, 1, 1]
    assert "ValueError: boom" in commands[1].err
    assert commands[0].err.count("Traceback") == 0, "a consequence is told in one line"
    assert (tmp_path / "outputs/run/attempts/1/outcomes/rank-00001.json").exists()


@pytest.mark.slow
@SRUN
def test_a_sweep_is_run_by_all_ranks_job_by_job(start: Start, tmp_path: Path) -> None:
    """The job that fails does not take the next one with it, and the sweep fails at last."""
    sweep = ["-m", "parallel=ddp", "data.batch_size=3", "seed=0,1", "hydra.sweep.dir=sweep"]
    commands = start("raises_with_seed_0", *sweep)
    assert codes(commands) == [1, 1, 1]
    assert [path.parent.name for path in sorted(tmp_path.glob("sweep/[01]/fact-?"))] == ["1"] * SIZE
    assert "ValueError: boom" in commands[1].err


@SRUN
def test_a_dry_run_starts_nothing(start: Start, tmp_path: Path) -> None:
    commands = start("meet", *DDP, "dry_run=true")
    assert codes(commands) == [0, 0, 0], commands[0].err
    assert "replicated" in commands[0].out
    assert not (tmp_path / "outputs").exists()


@SRUN
def test_ranks_with_different_configurations_are_refused(start: Start, tmp_path: Path) -> None:
    commands = start("meet", *DDP, seeds=(0, 0, 5))
    assert codes(commands) == [1, 1, 1]
    for command in commands:
        assert "the configuration (its hash) differs on rank 2 (rank 0-1: " in command.err
    assert not list(tmp_path.rglob("fact-?"))


PLAIN_APP = """
import hydra
from dcp_runner import run_experiment

@hydra.main(version_base="1.3", config_path="pkg://dcp_runner.conf", config_name="config")
def main(cfg):
    run_experiment(cfg, entry="entries:meet")

main()
"""


@pytest.mark.slow
def test_torchrun_itself_with_a_plain_hydra_app(tmp_path: Path) -> None:
    """Every rank enters Hydra here, and Hydra makes two folders; rank 0's is used."""
    (tmp_path / "plain.py").write_text(PLAIN_APP)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "plain.py", "parallel=ddp"]
    environment = os.environ | {"PYTHONPATH": str(SUPPORT), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(torchrun, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert len(list(tmp_path.rglob("attempts"))) == 1
    assert len({path.parent for path in tmp_path.rglob("fact-?")}) == 1
