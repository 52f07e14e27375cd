"""Who started this process, and as which rank: facts from the environment. Nothing is decided here.

Precedence:
1. torchrun's variables (torchrun may itself run below srun, as one task a node)
2. those of an srun step; a step with a single task is usually an interactive shell, and a rank only under submitit
3. nothing: this process is the only rank, or starts its ranks itself. So it is in a SLURM batch script, and where
   WORLD_SIZE is set without RANK
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from dcp_runner.common.errors import ConfigError
from dcp_runner.common.ranks import tasks_per_node

_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_STEP = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
_FIRST_PORT, _PORTS, _TRIES = 12_000, 18_000, 8


class Starter(StrEnum):
    """Who started the ranks."""

    torchrun = "torchrun"
    srun = "srun"
    internal = "dcp_runner"


@dataclass(frozen=True)
class World:
    """The rank of this process among all ranks, and their rendezvous."""

    starter: Starter
    rank: int
    size: int
    local_rank: int
    local_size: int
    """Ranks on this node."""
    addr: str
    ports: tuple[int, ...]
    """The rendezvous store listens on the first of these ports that is free on its host."""
    token: str = ""
    """Identifies the store of these ranks among others on the same ports; empty: there is only one port."""
    hosts_store: bool = False
    """Whether this rank serves the rendezvous store; elsewhere a process outside the ranks does."""
    node_sizes: tuple[int, ...] = ()
    """Ranks of each node, in the order of the ranks."""

    def __str__(self) -> str:
        return f"rank {self.rank} of {self.size}, started by {self.starter}, rendezvous at {self.addr}:{self.ports[0]}"


def from_env(env: Mapping[str, str]) -> World | None:
    """The world that torchrun or srun made for this process; None: neither started it.

    Raises:
        ConfigError: only some of the variables are set, or one is not a number: they belong to something else.
    """
    if "RANK" in env and "WORLD_SIZE" in env:
        return _from_torchrun(env)
    if "SLURM_PROCID" in env and (_srun_tasks(env) > 1 or env.get("SUBMITIT_EXECUTOR") == "slurm"):
        return _from_srun(env)
    return None


def _from_torchrun(env: Mapping[str, str]) -> World:
    missing = [name for name in _TORCHRUN if name not in env]
    if missing:
        raise ConfigError(
            f"environment: RANK and WORLD_SIZE are set without {', '.join(missing)}, so torchrun did not set them; "
            "unset them, or start with torchrun"
        )
    rank, size = _number(env, "RANK"), _number(env, "WORLD_SIZE")
    local = _number(env, "LOCAL_WORLD_SIZE") if "LOCAL_WORLD_SIZE" in env else size
    return World(
        starter=Starter.torchrun,
        rank=rank,
        size=size,
        local_rank=_number(env, "LOCAL_RANK"),
        local_size=local,
        addr=env["MASTER_ADDR"],
        ports=(_number(env, "MASTER_PORT"),),
        hosts_store=rank == 0 and env.get("TORCHELASTIC_USE_AGENT_STORE") != "True",
        node_sizes=(local,) * (size // max(1, local)),
    )


def _from_srun(env: Mapping[str, str]) -> World:
    rank, size = _number(env, "SLURM_PROCID"), _srun_tasks(env)
    hosts = env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST", "")
    per_node = env.get("SLURM_STEP_TASKS_PER_NODE") or env.get("SLURM_TASKS_PER_NODE", "")
    sizes, node = tasks_per_node(per_node) or (size,), int(env.get("SLURM_NODEID", 0))
    given = "MASTER_PORT" in env
    return World(
        starter=Starter.srun,
        rank=rank,
        size=size,
        local_rank=_number(env, "SLURM_LOCALID"),
        local_size=sizes[node] if node < len(sizes) else size,
        addr=env.get("MASTER_ADDR") or first_host(hosts) or "127.0.0.1",
        ports=(_number(env, "MASTER_PORT"),) if given else ports_of_step(env),
        token="" if given else ".".join(env.get(name, "0") for name in _STEP),
        hosts_store=rank == 0,
        node_sizes=sizes,
    )


def _srun_tasks(env: Mapping[str, str]) -> int:
    """Tasks of this srun step. A batch script sees the tasks of its job, but is not one of them."""
    if "SLURM_STEP_NUM_TASKS" in env:
        return _number(env, "SLURM_STEP_NUM_TASKS")
    return _number(env, "SLURM_NTASKS") if "SLURM_NTASKS" in env and "SLURM_STEP_ID" in env else 1


def _number(env: Mapping[str, str], name: str) -> int:
    try:
        return int(env[name])
    except KeyError:
        raise ConfigError(f"environment: {name} is not set, although related variables are") from None
    except ValueError:
        raise ConfigError(f"environment: {name} is not a number (found {env[name]!r})") from None


def ports_of_step(env: Mapping[str, str]) -> tuple[int, ...]:
    """Ports that all tasks of a step derive alike, without communication, and that two steps on one machine hardly
    share.
    """
    job, step = (int(text) if text.isdecimal() else 0 for text in (env.get(name, "0") for name in _STEP[:2]))
    first = job * 7 + step
    return tuple(_FIRST_PORT + (first + number * 1_009) % _PORTS for number in range(_TRIES))


def first_host(nodelist: str) -> str:
    """The first host of SLURM's compressed list: `n[03-07,9],m1` -> `n03`."""
    single = re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", nodelist)
    return single.split(",")[0]
