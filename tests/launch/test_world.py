"""Who started us, read from the environment. No process is started here."""

from __future__ import annotations

import pytest

from dcp_runner.common.errors import ConfigError
from dcp_runner.common.launch_env import Starter, World, first_host, from_env, ports_of_step
from dcp_runner.common.ranks import tasks_on_node

TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "a",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
}
BATCH = {"SLURM_JOB_ID": "77", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_JOB_NODELIST": "n[1-2]"}
SRUN = BATCH | {
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "1",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NODELIST": "n[1-2]",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
}
PORTS = ports_of_step(SRUN)
TOKEN = "77.0.0"
ONE_TASK = {
    "SLURM_PROCID": "0",
    "SLURM_NODEID": "0",
    "SLURM_STEP_NUM_TASKS": "1",
    "SLURM_STEP_NODELIST": "n1",
    "SLURM_STEP_TASKS_PER_NODE": "1",
}
SUBMITTED = {"SUBMITIT_EXECUTOR": "slurm"}


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, None),
        (TORCHRUN, World(Starter.torchrun, 3, 8, 1, 2, "a", (29500,))),
        (TORCHRUN | {"RANK": "0", "LOCAL_RANK": "0"}, World(Starter.torchrun, 0, 8, 0, 2, "a", (29500,))),
        (
            {key: TORCHRUN[key] for key in TORCHRUN if "TORCHELASTIC" not in key} | {"RANK": "0"},
            World(Starter.torchrun, 0, 8, 1, 2, "a", (29500,), hosts_store=True),
        ),
        (SRUN, World(Starter.srun, 2, 4, 0, 2, "n1", PORTS, TOKEN)),
        (SRUN | {"SLURM_PROCID": "0"}, World(Starter.srun, 0, 4, 0, 2, "n1", PORTS, TOKEN, hosts_store=True)),
        (SRUN | {"SLURM_RESTART_COUNT": "2"}, World(Starter.srun, 2, 4, 0, 2, "n1", PORTS, "77.0.2")),
        (SRUN | {"MASTER_ADDR": "m", "MASTER_PORT": "5"}, World(Starter.srun, 2, 4, 0, 2, "m", (5,))),
        (SRUN | {"MASTER_ADDR": "m"}, World(Starter.srun, 2, 4, 0, 2, "m", PORTS, TOKEN)),
        (SRUN | {"SLURM_STEP_TASKS_PER_NODE": "3,1"}, World(Starter.srun, 2, 4, 0, 1, "n1", PORTS, TOKEN)),
        (SRUN | ONE_TASK, None),
        (SRUN | ONE_TASK | {"SUBMITIT_EXECUTOR": "local"}, None),
        (SRUN | ONE_TASK | SUBMITTED, World(Starter.srun, 0, 1, 0, 1, "n1", PORTS, TOKEN, hosts_store=True)),
        (SRUN | SUBMITTED, World(Starter.srun, 2, 4, 0, 2, "n1", PORTS, TOKEN)),
        (SUBMITTED, None),
        (BATCH, None),
        (
            BATCH | {"SLURM_STEP_ID": "0", "SLURM_LOCALID": "0"},
            World(Starter.srun, 0, 4, 0, 4, "n1", PORTS, TOKEN, hosts_store=True),
        ),
        (SRUN | TORCHRUN, World(Starter.torchrun, 3, 8, 1, 2, "a", (29500,))),
        ({"RANK": "0"}, None),
    ],
)
def test_who_started_us(env: dict[str, str], expected: World | None) -> None:
    assert from_env(env) == expected


@pytest.mark.parametrize(
    ("env", "told"),
    [
        ({"RANK": "0", "WORLD_SIZE": "2"}, "LOCAL_RANK, MASTER_ADDR, MASTER_PORT is not"),
        (TORCHRUN | {"WORLD_SIZE": "two"}, "WORLD_SIZE is not a number (found 'two')"),
        ({key: value for key, value in SRUN.items() if key != "SLURM_LOCALID"}, "SLURM_LOCALID is not set"),
    ],
)
def test_an_environment_that_is_left_over(env: dict[str, str], told: str) -> None:
    with pytest.raises(ConfigError) as error:
        from_env(env)
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("n1", "n1"),
        ("n1,n2", "n1"),
        ("n[03-07,9],m1", "n03"),
        ("n[9,3-7]", "n9"),
        ("rack[1-2]n[3-4]", "rack1n3"),
        ("a-b-[10-12].x", "a-b-10.x"),
        ("", ""),
    ],
)
def test_first_host(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


@pytest.mark.parametrize(
    ("counts", "expected"), [("2(x3),1", [2, 2, 2, 1, 0]), ("4", [4, 0]), ("1,2", [1, 2, 0]), ("", [0])]
)
def test_tasks_on_node(counts: str, expected: list[int]) -> None:
    assert [tasks_on_node(counts, node) for node in range(len(expected))] == expected


def test_the_ports_follow_from_the_step() -> None:
    steps = [{"SLURM_JOB_ID": str(job), "SLURM_STEP_ID": str(step)} for job in range(50) for step in (0, 1)]
    found = [ports_of_step(step) for step in steps]
    assert found == [ports_of_step(step) for step in steps]
    assert len({ports[0] for ports in found}) > 90
    assert all(len(set(ports)) == len(ports) > 1 for ports in found), "one that is taken leaves others to try"
    assert all(1024 < port < 32768 for ports in found for port in ports), "not what clients are given ports from"


@pytest.mark.parametrize("step", ["batch", "", None])
def test_a_step_without_a_number_is_the_first(step: str | None) -> None:
    env = {"SLURM_JOB_ID": "1"} | ({} if step is None else {"SLURM_STEP_ID": step})
    assert ports_of_step(env) == ports_of_step({"SLURM_JOB_ID": "1", "SLURM_STEP_ID": "0"})


def test_a_world_can_be_a_key() -> None:
    assert len({from_env(SRUN), from_env(SRUN), from_env(SRUN | {"SLURM_RESTART_COUNT": "1"})}) == 2
    assert str(from_env(SRUN)) == f"rank 2 of 4, started by srun, meeting at n1:{PORTS[0]}"
