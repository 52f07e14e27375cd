"""A small model under every topology, by torch's own parts; and what it holds, gathered without the code under test."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

from dcp_runner.checkpoint.topology import Topology

LAYERS = 4
WIDTH = 6
"""Not divisible by 4: with fsdp=4 the last rank has empty chunks."""

TOPOLOGIES: dict[str, dict[str, int]] = {
    "single": {},
    "ddp 2": {"dp": 2},
    "ddp 4": {"dp": 4},
    "fsdp 2": {"fsdp": 2},
    "fsdp 4": {"fsdp": 4},
    "hsdp 2x2": {"dp": 2, "fsdp": 2},
    "tp 2": {"tp": 2},
    "pipeline 2": {"pp": 2},
    "pipeline 4": {"pp": 4},
    "dp_tp 2x2": {"dp": 2, "tp": 2},
    "dp_pp 2x2": {"pp": 2, "dp": 2},
    "fsdp_tp 2x2": {"fsdp": 2, "tp": 2},
    "dp_pp_tp 2x2x2": {"pp": 2, "dp": 2, "tp": 2},
}


def topology_of(name: str) -> Topology:
    world = 1
    for degree in TOPOLOGIES[name].values():
        world *= degree
    return Topology(world, TOPOLOGIES[name])


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH, bias=False)
        self.grow = nn.Linear(WIDTH, 2 * WIDTH, bias=False)
        self.shrink = nn.Linear(2 * WIDTH, WIDTH, bias=False)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += 1
        return x + self.shrink(torch.tanh(self.grow(self.norm(x))))


class Net(nn.Module):
    """Called on the output of an earlier stage it goes on from there."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, WIDTH)
        self.blocks = nn.ModuleDict({str(number): Block() for number in range(LAYERS)})
        self.last = nn.Linear(WIDTH, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for block in self.blocks.values():
            x = block(x)
        return self.last(x)


def trained() -> Live:
    """The model after three steps on one rank."""
    torch.manual_seed(5)
    live = Live(Topology(1), Net())
    for _ in range(3):
        live.optimizer.zero_grad()
        live.model(torch.randn(8, 3)).square().mean().backward()
        live.optimizer.step()
    return live


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    """With two groups."""
    decayed = [p for name, p in model.named_parameters() if "norm" not in name]
    others = [p for name, p in model.named_parameters() if "norm" in name]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=0.05)


@dataclass
class Live:
    """A model and its optimizer as one rank holds them under a topology."""

    topology: Topology
    model: nn.Module
    optimizer: torch.optim.Optimizer = field(init=False)

    def __post_init__(self) -> None:
        self.optimizer = optimizer_of(self.model)


def meshes(names: Iterable[str]) -> dict[str, DeviceMesh]:
    """To be called on all ranks of the default group, also those that a mesh lacks."""
    made = {}
    for name, axes in TOPOLOGIES.items():
        if axes and name in names:
            ranks = torch.arange(topology_of(name).world_size).view(*axes.values())
            made[name] = DeviceMesh("cpu", ranks, mesh_dim_names=tuple(axes))
    return made


def build(name: str, mesh: DeviceMesh | None, rank: int, seed: int = 0) -> Live:
    """Fresh objects under a topology, with weights that no checkpoint has. Called by the topology's ranks."""
    topology, axes = topology_of(name), TOPOLOGIES[name]
    torch.manual_seed(seed)
    model: Any = Net()
    if "pp" in axes:
        _cut(model, topology.coordinates(rank)["pp"], axes["pp"])
    if mesh is not None and "tp" in axes:
        plan = {"grow": ColwiseParallel(), "shrink": RowwiseParallel()}
        for block in model.blocks.values():
            parallelize_module(block, mesh["tp"], plan)
    if mesh is not None and "fsdp" in axes:
        sub = mesh["dp", "fsdp"] if "dp" in axes else mesh["fsdp"]
        for block in model.blocks.values():
            fully_shard(block, mesh=sub)
        fully_shard(model, mesh=sub)
    elif mesh is not None and list(axes) == ["dp"]:
        model = DistributedDataParallel(model, process_group=mesh.get_group("dp"))
    return Live(topology, model)


def _cut(model: Net, stage: int, stages: int) -> None:
    everything = set(model.state_dict())
    per_stage = LAYERS // stages
    for number in range(LAYERS):
        if number // per_stage != stage:
            del model.blocks[str(number)]
    if stage != 0:
        model.first = nn.Identity()
    if stage != stages - 1:
        model.last = nn.Identity()
    model.names_elsewhere = frozenset(everything - set(model.state_dict()))
    model.names_vary_along = ("pp",)


def whole(live: Live) -> dict[str, torch.Tensor | float | int]:
    """All that this rank holds of the model and the optimizer, its DTensors made whole. Called by the topology's ranks."""
    inner = live.model.module if isinstance(live.model, DistributedDataParallel) else live.model
    found: dict[str, Any] = dict(inner.state_dict())
    names = {id(parameter): name for name, parameter in inner.named_parameters()}
    for group in live.optimizer.param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            found |= {f"{name}.{key}": value for key, value in live.optimizer.state[parameter].items()}
            found |= {f"{name}.{key}": value for key, value in group.items() if key in ("lr", "weight_decay", "betas")}
    return {name: _whole(value) for name, value in found.items()}


def _whole(value: Any) -> Any:
    value = value.full_tensor() if isinstance(value, DTensor) else value
    return value.detach().clone() if isinstance(value, torch.Tensor) else value
