"""The plan as a table: which ranks hold, check and write what, and why. For the start of a run, and for `dry_run`
without any rank.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch._dynamo  # what building on the meta device imports, and every run; once here, not in every fork
import torch.distributed as dist
from torch import nn
from torch.optim import Optimizer

from dcp_runner.checkpoint.bind import BoundComponent, bind
from dcp_runner.checkpoint.saving.write_plan import split
from dcp_runner.checkpoint.state.dtensor import is_sharded
from dcp_runner.checkpoint.state.optimizers import OptimizerState
from dcp_runner.checkpoint.topology import Topology
from dcp_runner.common.ranks import rank_text
from dcp_runner.common.tables import as_text, table
from dcp_runner.config.schema import RunConfig
from dcp_runner.run.build import build, callbacks_of, components_of, topology_of
from dcp_runner.run.disk_forecast import human
from dcp_runner.train.progress import Progress

UNKNOWN = "unknown"


Sizes = dict[str, int] | None
"""Bytes of each tensor of a component's copy, by number; None: unknown."""


def plan_table(bound: Sequence[BoundComponent], sizes_of: Sequence[Sizes], topology: Topology) -> str:
    """Component, pattern, why, copies, holders, writers and bytes, as text."""
    mesh = " x ".join(f"{axis}={degree}" for axis, degree in topology.mesh.items())
    rows = []
    for turn, (one, sizes) in enumerate(zip(bound, sizes_of, strict=True)):
        alone = len(one.copies) == 1
        writers, size = UNKNOWN, UNKNOWN
        if sizes is not None:
            ranks = sorted({part.writer for part in split(one.key, one.mine, sizes, turn)})
            writers = rank_text(ranks) if alone else f"{len(ranks)} each"
            size = human(sum(sizes.values())) + ("" if alone else " each")
        rows.append(
            (
                one.key,
                str(one.resolved.sharing),
                one.resolved.reason,
                one.mine.name if alone else f"{len(one.copies)}: {one.copies[0].name} ... {one.copies[-1].name}",
                rank_text(one.mine.holders) if alone else f"{len(one.mine.holders)} each",
                writers,
                size,
            )
        )
    columns = ("component", "pattern", "why", "copies", "holders", "writers", "bytes")
    title = f"{topology.world_size} ranks ({mesh}), {len(topology.nodes or ())} node(s)"
    return as_text(table(columns, rows, title=title, whole=columns[:2], right=columns[-1:]))


def sizes_of(bound: Sequence[BoundComponent]) -> list[Sizes]:
    """Of the copies that this rank holds. All ranks of a run call it, because the state of a user's own component may
    be a collective call.
    """
    return [state_sizes(one.stateful) for one in bound]


def checkpoint_size(bound: Sequence[BoundComponent], sizes_of: Sequence[Sizes]) -> int | None:
    """About how many bytes a checkpoint has, if all copies are as large as this rank's; None: unknown."""
    if None in sizes_of:
        return None
    return sum(sum(sizes.values()) * len(one.copies) for one, sizes in zip(bound, sizes_of, strict=True) if sizes)


@contextmanager
def planned(config: RunConfig, model: nn.Module) -> Iterator[tuple[list[BoundComponent], Topology]]:
    """The components of a run that is not started, as rank 0 would see them; `model` is on the meta device.

    They are real objects on the meta device, in torch's fake process group, which is there as long as the context is.
    They leave caches and seeds behind: ranks must not be forked from the process that has made them.
    """
    from torch.testing._internal.distributed.fake_pg import FakeStore

    topology = topology_of(config.parallel, config.resources.tasks_per_node)
    if topology.world_size > 1:
        dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=topology.world_size)
    try:
        parts = build(config, topology, torch.device("meta"), model)
        components = components_of(config, parts, _FeedStandIn(), Progress(), callbacks_of(config))
        yield bind(components, topology, 0, config.checkpoint.validation), topology
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


class _FeedStandIn:
    """Stands for a feed, so that a plan opens no data set."""

    def state_dict(self) -> dict[str, Any]:
        return {"consumed": 0}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing to restore."""


def state_sizes(stateful: Any) -> Sizes:
    """Bytes of each tensor and array in a state, by number; for an optimizer that has not stepped yet, of those
    that it will have, or None: only a step on real data would tell.
    """
    if isinstance(stateful, OptimizerState) and not stateful.optimizer.state:
        state: Any = _state_after_a_step(stateful.optimizer)
        if state is None:
            return None
    else:
        state = stateful.state_dict()
    leaves = [_local(leaf) for leaf in torch.utils._pytree.tree_leaves(state)]
    once = {_memory(leaf): leaf.nbytes for leaf in leaves if hasattr(leaf, "nbytes")}
    return {str(number): size for number, size in enumerate(once.values())}


def _local(leaf: Any) -> Any:
    """What this rank holds of it."""
    return leaf.to_local() if is_sharded(leaf) else leaf


def _memory(leaf: Any) -> Any:
    """Equal for tied tensors, also on the meta device."""
    if not isinstance(leaf, torch.Tensor):
        return id(leaf)
    return leaf.untyped_storage()._cdata, leaf.storage_offset(), leaf.shape, leaf.stride()


def _state_after_a_step(optimizer: Optimizer) -> dict[str, Any] | None:
    """What a twin of this rank's part on the meta device holds after a step; None: it cannot step there.

    Only torch's own optimizers are tried. Of them it is known what a step does and raises: anybody else's may raise
    anything, talk to the other ranks, or count its steps outside of itself.
    """
    if not f"{type(optimizer).__module__}.".startswith("torch.optim."):
        return None
    twin = copy.copy(optimizer)
    twin.state = defaultdict(dict)
    twin.param_groups = [{**group, "params": [_twin(one) for one in group["params"]]} for group in twin.param_groups]
    try:
        twin.step()
    except (RuntimeError, AssertionError, TypeError):  # reads a value; is fused or capturable; needs a closure
        return None
    return twin.state_dict()


def _twin(parameter: torch.Tensor) -> torch.nn.Parameter:
    twin = torch.nn.Parameter(torch.empty_like(_local(parameter), device="meta"), parameter.requires_grad)
    twin.grad = torch.empty_like(twin) if parameter.requires_grad else None
    return twin
