"""Who started this process, read from the environment: the same for the program and for the library."""

from __future__ import annotations

import pytest

from dcp_runner.checkpoint.topology import Topology
from dcp_runner.common.errors import ConfigError
from dcp_runner.common.launch_env import Starter, World, first_host, from_env, ports_of_step
from dcp_runner.run.build import topology_of
from dcp_runner.train.parallel.config import ParallelConfig

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


NODES = {"node_sizes": (2, 2, 2, 2)}
TWO = {"node_sizes": (2, 2)}
TABLE: list[tuple[dict[str, str], World | None]] = [
    ({}, None),
    (TORCHRUN, World(Starter.torchrun, 3, 8, 1, 2, "a", (29500,), **NODES)),
    (TORCHRUN | {"RANK": "0", "LOCAL_RANK": "0"}, World(Starter.torchrun, 0, 8, 0, 2, "a", (29500,), **NODES)),
    (
        {key: TORCHRUN[key] for key in TORCHRUN if "TORCHELASTIC" not in key} | {"RANK": "0"},
        World(Starter.torchrun, 0, 8, 1, 2, "a", (29500,), hosts_store=True, **NODES),
    ),
    (
        {key: TORCHRUN[key] for key in TORCHRUN if key != "LOCAL_WORLD_SIZE"},
        World(Starter.torchrun, 3, 8, 1, 8, "a", (29500,), node_sizes=(8,)),
    ),
    (SRUN, World(Starter.srun, 2, 4, 0, 2, "n1", PORTS, TOKEN, **TWO)),
    (SRUN | {"SLURM_PROCID": "0"}, World(Starter.srun, 0, 4, 0, 2, "n1", PORTS, TOKEN, hosts_store=True, **TWO)),
    (SRUN | {"SLURM_RESTART_COUNT": "2"}, World(Starter.srun, 2, 4, 0, 2, "n1", PORTS, "77.0.2", **TWO)),
    (SRUN | {"MASTER_ADDR": "m", "MASTER_PORT": "5"}, World(Starter.srun, 2, 4, 0, 2, "m", (5,), **TWO)),
    (SRUN | {"MASTER_ADDR": "m"}, World(Starter.srun, 2, 4, 0, 2, "m", PORTS, TOKEN, **TWO)),
    (
        SRUN | {"SLURM_STEP_TASKS_PER_NODE": "3,1"},
        World(Starter.srun, 2, 4, 0, 1, "n1", PORTS, TOKEN, node_sizes=(3, 1)),
    ),
    (
        {key: SRUN[key] for key in SRUN if key != "SLURM_STEP_TASKS_PER_NODE"}
        | {"SLURM_TASKS_PER_NODE": "1(x3),4", "SLURM_STEP_NUM_TASKS": "7", "SLURM_PROCID": "5", "SLURM_NODEID": "3"},
        World(Starter.srun, 5, 7, 0, 4, "n1", PORTS, TOKEN, node_sizes=(1, 1, 1, 4)),
    ),
    (SRUN | ONE_TASK, None),
    (SRUN | ONE_TASK | {"SUBMITIT_EXECUTOR": "local"}, None),
    (
        SRUN | ONE_TASK | SUBMITTED,
        World(Starter.srun, 0, 1, 0, 1, "n1", PORTS, TOKEN, hosts_store=True, node_sizes=(1,)),
    ),
    (SRUN | SUBMITTED, World(Starter.srun, 2, 4, 0, 2, "n1", PORTS, TOKEN, **TWO)),
    (SUBMITTED, None),
    (BATCH, None),
    (BATCH | {"SLURM_TASKS_PER_NODE": "2(x2)"}, None),
    (
        BATCH | {"SLURM_STEP_ID": "0", "SLURM_LOCALID": "0"},
        World(Starter.srun, 0, 4, 0, 4, "n1", PORTS, TOKEN, hosts_store=True, node_sizes=(4,)),
    ),
    (SRUN | TORCHRUN, World(Starter.torchrun, 3, 8, 1, 2, "a", (29500,), **NODES)),
    ({"RANK": "0"}, None),
    ({"WORLD_SIZE": "4"}, None),
    ({"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}, None),
    (SRUN | {"WORLD_SIZE": "8"}, World(Starter.srun, 2, 4, 0, 2, "n1", PORTS, TOKEN, **TWO)),
]


@pytest.mark.parametrize(("env", "expected"), TABLE)
def test_who_started_us(env: dict[str, str], expected: World | None) -> None:
    assert from_env(env) == expected


@pytest.mark.parametrize(("env", "expected"), TABLE)
def test_program_and_library_see_the_same_ranks(env: dict[str, str], expected: World | None) -> None:
    topology = Topology.from_env(env)
    assert topology.world_size == (expected.size if expected else 1)
    assert tuple(len(node) for node in topology.nodes or ()) == (expected.node_sizes if expected else (1,))


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"RANK": "0", "WORLD_SIZE": "2"}, "without LOCAL_RANK, MASTER_ADDR, MASTER_PORT"),
        (TORCHRUN | {"WORLD_SIZE": "two"}, "WORLD_SIZE is not a number (found 'two')"),
        ({key: value for key, value in SRUN.items() if key != "SLURM_LOCALID"}, "SLURM_LOCALID is not set"),
    ],
)
def test_stray_variables_are_refused_by_both(env: dict[str, str], message: str) -> None:
    for read in (from_env, Topology.from_env):
        with pytest.raises(ConfigError) as error:
            read(env)
        assert message in str(error.value)


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
    assert str(from_env(SRUN)) == f"rank 2 of 4, started by srun, rendezvous at n1:{PORTS[0]}"


def test_a_run_on_uneven_nodes_has_the_nodes_that_the_library_sees() -> None:
    env = SRUN | {"SLURM_STEP_TASKS_PER_NODE": "3,1"}
    world = from_env(env)
    assert world is not None
    topology = topology_of(ParallelConfig(dp=4), world.node_sizes)
    assert topology.nodes == Topology.from_env(env).nodes == ((0, 1, 2), (3,))
