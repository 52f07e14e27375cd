"""Who started this process, and as which rank. Facts from the environment; nothing is decided here.

Precedence: torchrun's variables, then those of an srun step, then nothing: this process starts its ranks itself.
torchrun comes first because it may itself run below srun, as one task a node. A step with a single task is somebody's
shell, as a rule; it is a rank where submitit has started it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from dcp_runner.common.errors import ConfigError
from dcp_runner.common.ranks import tasks_on_node

_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_STEP = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
_FIRST_PORT, _PORTS, _TRIES = 12_000, 18_000, 8


class Starter(StrEnum):
    """Who started the ranks."""

    torchrun = "torchrun"
    srun = "srun"
    own = "dcp_runner"


@dataclass(frozen=True)
class World:
    """One rank's place among all ranks, and where they meet."""

    starter: Starter
    rank: int
    size: int
    local_rank: int
    local_size: int
    """Ranks on this node."""
    addr: str
    ports: tuple[int, ...]
    """Where the rendezvous store is: at the first of these ports that its host found free."""
    token: str = ""
    """What the store of these ranks says, so that they mistake no other for it; empty: there is only one port."""
    hosts_store: bool = False
    """Whether this rank serves the rendezvous store; elsewhere a process outside the ranks does."""

    def __str__(self) -> str:
        return f"rank {self.rank} of {self.size}, started by {self.starter}, meeting at {self.addr}:{self.ports[0]}"


def from_env(env: Mapping[str, str]) -> World | None:
    """The world that torchrun or srun made for this process; None: nobody did.

    Raises:
        ConfigError: only a part of the variables is set, or one is not a number: left over from something else.
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
            f"environment: RANK and WORLD_SIZE are set, but {', '.join(missing)} is not, so this is not torchrun; "
            "unset them (they are left over from something else) or start with torchrun"
        )
    rank, size = _number(env, "RANK"), _number(env, "WORLD_SIZE")
    return World(
        starter=Starter.torchrun,
        rank=rank,
        size=size,
        local_rank=_number(env, "LOCAL_RANK"),
        local_size=_number(env, "LOCAL_WORLD_SIZE") if "LOCAL_WORLD_SIZE" in env else size,
        addr=env["MASTER_ADDR"],
        ports=(_number(env, "MASTER_PORT"),),
        hosts_store=rank == 0 and env.get("TORCHELASTIC_USE_AGENT_STORE") != "True",
    )


def _from_srun(env: Mapping[str, str]) -> World:
    rank = _number(env, "SLURM_PROCID")
    nodes = env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST", "")
    per_node = env.get("SLURM_STEP_TASKS_PER_NODE") or env.get("SLURM_TASKS_PER_NODE", "")
    given = "MASTER_PORT" in env
    return World(
        starter=Starter.srun,
        rank=rank,
        size=_srun_tasks(env),
        local_rank=_number(env, "SLURM_LOCALID"),
        local_size=tasks_on_node(per_node, int(env.get("SLURM_NODEID", 0))) or _srun_tasks(env),
        addr=env.get("MASTER_ADDR") or first_host(nodes) or "127.0.0.1",
        ports=(_number(env, "MASTER_PORT"),) if given else ports_of_step(env),
        token="" if given else ".".join(env.get(name, "0") for name in _STEP),
        hosts_store=rank == 0,
    )


def _srun_tasks(env: Mapping[str, str]) -> int:
    """Tasks of this srun step. A batch script is no step: it knows the job's tasks, but it is not one of them."""
    if "SLURM_STEP_NUM_TASKS" in env:
        return _number(env, "SLURM_STEP_NUM_TASKS")
    return _number(env, "SLURM_NTASKS") if "SLURM_NTASKS" in env and "SLURM_STEP_ID" in env else 1


def _number(env: Mapping[str, str], name: str) -> int:
    try:
        return int(env[name])
    except KeyError:
        raise ConfigError(f"environment: {name} is not set, though others of its kind are") from None
    except ValueError:
        raise ConfigError(f"environment: {name} is not a number (found {env[name]!r})") from None


def ports_of_step(env: Mapping[str, str]) -> tuple[int, ...]:
    """Ports that all tasks of a step agree on without talking, and that two steps of a machine hardly share."""
    job, step = (int(text) if text.isdecimal() else 0 for text in (env.get(name, "0") for name in _STEP[:2]))
    first = job * 7 + step
    return tuple(_FIRST_PORT + (first + number * 1_009) % _PORTS for number in range(_TRIES))


def first_host(nodelist: str) -> str:
    """The first host of SLURM's compressed list: `n[03-07,9],m1` -> `n03`."""
    single = re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", nodelist)
    return single.split(",")[0]
