"""Every optimizer goes on, bit for bit, as if it had not been saved and loaded; or is refused by name."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from gloo_optimizers import OTHERS, TORCH, train
from gloo_ranks import Rank, caught, run
from gloo_states import bits
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.optim import Optimizer
from torch.utils._pytree import tree_map

from dcp_runner import CheckpointCoordinator, CheckpointError, StateComponent, Topology

pytestmark = pytest.mark.timeout(180)
KINDS = TORCH | OTHERS


class Looked(nn.Module):
    """Has sparse gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(8, 3, sparse=True)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.table(inputs.abs().argmax(1))


def net(name: str = "", seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return Looked() if name == "SparseAdam" else nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 4, bias=False))


def cut(axis: str, mesh: DeviceMesh, seed: int = 0) -> Any:
    """The same network in two parts."""
    if axis == "tp":
        return parallelize_module(net(seed=seed), mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
    return fully_shard(net(seed=seed), mesh=mesh)


def coordinator(model: nn.Module, optimizer: Any, folder: Path, topology: Any = None, comm: Any = None) -> Any:
    parts = [StateComponent("model", model), StateComponent("optimizer", optimizer)]
    return CheckpointCoordinator(parts, topology or Topology(1), folder, comm=comm)


def in_order(state: Any) -> Any:
    """With the keys of all dicts in one order, which means nothing."""
    if isinstance(state, dict):
        return {key: in_order(state[key]) for key in sorted(state, key=repr)}
    return [in_order(item) for item in state] if isinstance(state, list) else state


def test_all_of_torch_are_here() -> None:
    names = [name for name, kind in vars(torch.optim).items() if isinstance(kind, type) and issubclass(kind, Optimizer)]
    assert {name for name in names if name != "Optimizer"} == {name.split()[0] for name in TORCH}


@pytest.mark.parametrize("name", KINDS)
def test_training_goes_on_bit_for_bit(name: str, tmp_path: Path) -> None:
    model = net(name, 0)
    optimizer = KINDS[name](model)
    train(model, optimizer, range(3))
    coordinator(model, optimizer, tmp_path).save(3)
    other = net(name, 1)
    second = KINDS[name](other)
    coordinator(other, second, tmp_path).load(3)
    train(model, optimizer, range(3, 9))
    train(other, second, range(3, 9))
    assert bits(other.state_dict()) == bits(model.state_dict())
    assert bits(in_order(second.state_dict())) == bits(in_order(optimizer.state_dict()))


def in_parts(root: Path, rank: Rank, names: list[str]) -> dict[tuple[str, str], str]:
    """What came of each optimizer under each topology that cuts: what its training says, or what differs; empty if all is well.

    It trains, is saved, goes on, and so does a fresh one that loads; and what was saved loads on one rank, and from one rank.
    """
    mesh_of = {axis: DeviceMesh("cpu", [0, 1], mesh_dim_names=(axis,)) for axis in ("fsdp", "tp")}
    told: dict[tuple[str, str], str] = {}
    for name, axis in ((name, axis) for name in names for axis in mesh_of):
        folder, topology = root / name / axis, Topology(2, {axis: 2})
        model, comm = cut(axis, mesh_of[axis]), rank.comm(f"{name} {axis}")
        try:
            optimizer = KINDS[name](model)
            train(model, optimizer, range(3))
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            told[name, axis] = f"does not train: {error}"
            continue
        try:
            coordinator(model, optimizer, folder, topology, comm).save(3)
        except CheckpointError as error:
            told[name, axis] = f"refused: {error}"
            continue
        saved = everything(model, optimizer)
        again = cut(axis, mesh_of[axis], seed=1)
        second = KINDS[name](again)
        coordinator(again, second, folder, topology, comm).load(3)
        wrong = {"loaded": everything(again, second) != saved}
        for one, its in ((model, optimizer), (again, second)):
            train(one, its, range(3, 6))
        wrong["resumed"] = everything(again, second) != everything(model, optimizer)
        single = net(seed=1)
        lone = KINDS[name](single)
        alone = rank.comm(f"{name} {axis} {rank.number}", 1) if rank.number == 0 else None
        if alone:
            coordinator(single, lone, folder, comm=alone).load(3)
            wrong["on one rank"] = everything(single, lone) != saved
            train(single, lone, range(3, 5))
            coordinator(single, lone, folder / "alone", comm=alone).save(5)
        rank.meet_again(f"{name} {axis} alone")
        try:
            coordinator(again, second, folder / "alone", topology, comm).load(5)
        except CheckpointError as error:
            told[name, axis] = f"not from one rank: {error}"
            continue
        found = everything(again, second)
        wrong["from one rank"] = alone is not None and found != everything(single, lone)
        train(again, second, range(5, 7))
        told[name, axis] = ", ".join(what for what, differs in wrong.items() if differs)
    return told


def everything(model: nn.Module, optimizer: Optimizer) -> Any:
    """Weights and all of the optimizer's state as bits, DTensors made whole. Called by all ranks."""
    return bits(tree_map(_whole, [dict(model.state_dict()), in_order(optimizer.state_dict())]))


def _whole(value: Any) -> Any:
    return value.full_tensor() if isinstance(value, DTensor) else value


CUT = {*TORCH, *OTHERS} - {"SparseAdam"}
WHERE_THEY_TRAIN = {
    *CUT
    - {"Adafactor", "Rprop", "Lookahead", "Lookahead of Ranger21", "TRAC", "SAM", "FriendlySAM", "MADGRAD", "Prodigy"}
    - {"SPAM", "Magma", "SOAP", "SPlus", "Shampoo"}
}
"""Those that step with DTensors; the others raise in their first step, whatever is saved."""
REFUSED = {
    "LBFGS": "not from one rank: 'd' of LBFGS cannot be resharded",
    "statistics and more": "not from one rank: 'plain' of Statistics cannot be resharded",
    "total": "refused: Total cannot be stored: 'total' in its `state` is a DTensor",
}
"""By when, and what."""


@pytest.mark.slow
def test_what_is_cut_is_saved_and_resumed_and_cut_anew_or_refused_by_name(tmp_path: Path) -> None:
    def body(rank: Rank) -> Any:
        warnings.filterwarnings("ignore", "Found a non-scalar tensor")  # one of those that do not train
        with rank.process_group():
            return in_parts(tmp_path, rank, sorted(CUT))

    for told in run(body, 2, limit_s=170):
        for (name, axis), text in told.items():
            if not text.startswith("does not train"):
                assert all(one in text for one in REFUSED.get(name, "").split(": ", 1)), (name, axis, text)
                assert bool(text) == (name in REFUSED), (name, axis, text)
        trained = {name for name in CUT if not any(told[name, axis].startswith("does not") for axis in ("fsdp", "tp"))}
        assert trained >= WHERE_THEY_TRAIN


@pytest.mark.slow
def test_state_that_is_shared_out_between_ranks_is_refused_by_name(tmp_path: Path) -> None:
    def body(rank: Rank) -> Any:
        warnings.filterwarnings("ignore", ".*torch.jit", DeprecationWarning)
        from torch.distributed.optim import ZeroRedundancyOptimizer

        with rank.process_group():
            model = net()
            optimizer = ZeroRedundancyOptimizer(model.parameters(), torch.optim.AdamW, lr=0.1)
            train(model, optimizer, range(2))
            return caught(
                lambda: coordinator(model, optimizer, tmp_path, Topology(2, {"dp": 2}), rank.comm("zero")).save(1)
            )

    for ended in run(body, 2):
        assert "ZeroRedundancyOptimizer cannot be stored: its state_dict() raises RuntimeError" in ended.text
    assert not [*tmp_path.glob("checkpoint-*")]
