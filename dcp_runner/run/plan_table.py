"""The plan table: which ranks hold and write each component, and why. At the start of a run, and in a `dry_run` without
any rank.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.optim import Optimizer

from dcp_runner.checkpoint.bind import BoundComponent, bind
from dcp_runner.checkpoint.saving.write_plan import split
from dcp_runner.checkpoint.state.dtensor import is_dtensor
from dcp_runner.checkpoint.state.optim.optimizers import OptimizerState
from dcp_runner.checkpoint.topology import Topology
from dcp_runner.common.ranks import rank_text
from dcp_runner.common.tables import as_text, table
from dcp_runner.common.torch_private import fake_store, import_dynamo, memory_id, tree_leaves
from dcp_runner.config.schema import RunConfig
from dcp_runner.run.build import build_callbacks, build_parts, topology_of
from dcp_runner.run.components import components_of
from dcp_runner.run.disk_forecast import human_size
from dcp_runner.train.progress import Progress

import_dynamo()  # building on the meta device imports it, as every run does; here once, not in every fork

UNKNOWN = "unknown"

TensorSizes = dict[str, int] | None
"""Bytes of each tensor in the state of a component, by number; None: unknown."""


def plan_table(bound: Sequence[BoundComponent], sizes: Sequence[TensorSizes], topology: Topology) -> str:
    """Component, pattern, why, copies, holders, writers and bytes, as text."""
    mesh = " x ".join(f"{axis}={degree}" for axis, degree in topology.mesh.items())
    rows = [_row(*row) for row in zip(bound, sizes, range(len(bound)), strict=True)]
    columns = ("component", "pattern", "why", "copies", "holders", "writers", "bytes")
    ranks, nodes = topology.world_size, len(topology.nodes or ())
    title = f"{ranks} rank{'s' * (ranks > 1)} ({mesh or 'no mesh'}), {nodes} node{'s' * (nodes > 1)}"
    return as_text(table(columns, rows, title=title, whole=columns[:2], right=columns[-1:]))


def _row(component: BoundComponent, sizes: TensorSizes, rotation: int) -> tuple[str, ...]:
    copies, own_copy = component.copies, component.own_copy
    is_single = len(copies) == 1
    writers, size = UNKNOWN, UNKNOWN
    if sizes is not None:
        ranks = sorted({part.writer for part in split(component.key, own_copy, sizes, rotation)})
        writers = rank_text(ranks) if is_single else f"{len(ranks)} each"
        size = human_size(sum(sizes.values())) + ("" if is_single else " each")
    return (
        component.key,
        str(component.resolved.sharing),
        component.resolved.reason,
        own_copy.name if is_single else f"{len(copies)}: {copies[0].name} ... {copies[-1].name}",
        rank_text(own_copy.holders) if is_single else f"{len(own_copy.holders)} each",
        writers,
        size,
    )


def tensor_sizes(bound: Sequence[BoundComponent]) -> list[TensorSizes]:
    """The sizes of the copies that this rank holds. All ranks of a run call it, because the `state_dict` of a user's
    component may be collective.
    """
    return [state_sizes(component.stateful) for component in bound]


def checkpoint_size(bound: Sequence[BoundComponent], sizes: Sequence[TensorSizes]) -> int | None:
    """The approximate bytes of a checkpoint, if all copies are as large as this rank's; None: unknown."""
    if None in sizes:
        return None
    pairs = zip(bound, sizes, strict=True)
    return sum(sum(of_copy.values()) * len(component.copies) for component, of_copy in pairs if of_copy)


@contextmanager
def planned_components(config: RunConfig, model: nn.Module) -> Iterator[tuple[list[BoundComponent], Topology]]:
    """The components of a run that is not started, as rank 0 would see them; `model` is on the meta device.

    They are real objects on the meta device, in torch's fake process group, which exists as long as the context does.
    They leave caches and seeds behind, so ranks must not be forked from this process afterwards.
    """
    topology = topology_of(config.parallel)
    if local := config.resources.tasks_per_node:
        topology = topology_of(config.parallel, [local] * (topology.world_size // local))
    if topology.world_size > 1:
        dist.init_process_group("fake", store=fake_store(), rank=0, world_size=topology.world_size)
    try:
        parts = build_parts(config, topology, torch.device("meta"), model)
        components = components_of(config, parts, _FeedStub(), Progress(), build_callbacks(config))
        yield bind(components, topology, 0, config.checkpoint.validation), topology
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


class _FeedStub:
    """In place of a feed, so that a plan table opens no data set."""

    def state_dict(self) -> dict[str, Any]:
        return {"consumed": 0}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing to restore."""


def state_sizes(stateful: Any) -> TensorSizes:
    """Bytes of each tensor and array in a state, by number. For an optimizer that has not stepped yet these are the
    tensors that it will have; None if only a step on real data could show them.
    """
    if isinstance(stateful, OptimizerState) and not stateful.optimizer.state:
        state: Any = _state_after_a_step(stateful.optimizer)
        if state is None:
            return None
    else:
        state = stateful.state_dict()
    leaves = [_local(leaf) for leaf in tree_leaves(state)]
    unique = {_memory_key(leaf): leaf.nbytes for leaf in leaves if hasattr(leaf, "nbytes")}
    return {str(number): size for number, size in enumerate(unique.values())}


def _local(leaf: Any) -> Any:
    """The part of a tensor that this rank holds."""
    return leaf.to_local() if is_dtensor(leaf) else leaf


def _memory_key(leaf: Any) -> Any:
    """Equal for tied tensors, also on the meta device."""
    if not isinstance(leaf, torch.Tensor):
        return id(leaf)
    return memory_id(leaf), leaf.storage_offset(), leaf.shape, leaf.stride()


def _state_after_a_step(optimizer: Optimizer) -> dict[str, Any] | None:
    """The state after a step of a twin of this optimizer on the meta device; None: it cannot step there.

    Only torch's own optimizers are tried, because it is known what their steps do and raise. Others may raise anything,
    communicate with other ranks, or count their steps outside of themselves.
    """
    if not f"{type(optimizer).__module__}.".startswith("torch.optim."):
        return None
    twin = copy.copy(optimizer)
    twin.state = defaultdict(dict)
    twin.param_groups = [{**group, "params": [*map(_twin, group["params"])]} for group in twin.param_groups]
    try:
        twin.step()
    except (RuntimeError, AssertionError, TypeError):  # it reads a value, is fused or capturable, or needs a closure
        return None
    return twin.state_dict()


def _twin(parameter: torch.Tensor) -> torch.nn.Parameter:
    twin = torch.nn.Parameter(torch.empty_like(_local(parameter), device="meta"), parameter.requires_grad)
    twin.grad = torch.empty_like(twin) if parameter.requires_grad else None
    return twin
