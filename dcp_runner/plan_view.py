"""The plan as a table: which ranks hold, check and write what, and why. For the start of a run, and for `dry_run`
without any rank.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch._dynamo  # what building on the meta device imports, and every run; once here, not in every fork
import torch.distributed as dist
from torch.optim import Optimizer

from dcp_runner.assemble import build, callbacks_of, components_of, topology_of
from dcp_runner.checkpoint.bind import Bound, bind
from dcp_runner.checkpoint.errors import rank_text
from dcp_runner.checkpoint.optimizers import OptimizerState
from dcp_runner.checkpoint.plan import split
from dcp_runner.checkpoint.sharded import is_sharded
from dcp_runner.checkpoint.topology import Topology
from dcp_runner.config import RunConfig
from dcp_runner.launch.aside import aside
from dcp_runner.tables import as_text, table
from dcp_runner.train.progress import Progress


def plan_table(bound: Sequence[Bound], topology: Topology) -> str:
    """Component, pattern, why, copies, holders, writers and bytes, as text."""
    mesh = " x ".join(f"{axis}={degree}" for axis, degree in topology.mesh.items())
    rows = []
    for turn, one in enumerate(bound):
        sizes = state_sizes(one.stateful)
        writers = sorted({part.writer for part in split(one.key, one.mine, sizes, turn)})
        alone = len(one.copies) == 1
        rows.append(
            (
                one.key,
                str(one.resolved.sharing),
                one.resolved.reason,
                one.mine.name if alone else f"{len(one.copies)}: {one.copies[0].name} ... {one.copies[-1].name}",
                rank_text(one.mine.holders) if alone else f"{len(one.mine.holders)} each",
                rank_text(writers) if alone else f"{len(writers)} each",
                _human(sum(sizes.values())) + ("" if alone else " each"),
            )
        )
    columns = ("component", "pattern", "why", "copies", "holders", "writers", "bytes")
    title = f"{topology.world_size} ranks ({mesh}), {len(topology.nodes or ())} node(s)"
    return as_text(table(columns, rows, title=title, whole=columns[:2], right=columns[-1:]))


def show_plan(config: RunConfig) -> str:
    """The plan of a run that is not started, made in another process.

    Raises:
        ConfigError: that process ended without a plan.
    """

    def plan() -> str:
        with planned(config) as (bound, topology):
            return plan_table(bound, topology)

    return aside("dry_run: making the plan", plan)


def sharing_problems(config: RunConfig) -> list[str]:
    """What the plan of a run says against its declared sharings; made in another process.

    Raises:
        ConfigError: that process ended without a plan.
    """

    def plan() -> list[str]:
        try:
            with planned(config):
                return []
        except ValueError as error:
            return [f"sharing: {error}"]

    return aside("sharing: making the plan", plan)


@contextmanager
def planned(config: RunConfig) -> Iterator[tuple[list[Bound], Topology]]:
    """The components of a run that is not started, as rank 0 would see them.

    They are real objects on the meta device, in torch's fake process group, which is there as long as the context is.
    They leave caches and seeds behind: ranks must not be forked from the process that has made them.
    """
    from torch.testing._internal.distributed.fake_pg import FakeStore

    topology = topology_of(config.parallel, config.resources.tasks_per_node)
    if topology.world_size > 1:
        dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=topology.world_size)
    try:
        parts = build(config, topology, torch.device("meta"))
        components = components_of(config, parts, _Position(), Progress(), callbacks_of(config))
        yield bind(components, topology, 0, config.checkpoint.validation), topology
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


class _Position:
    """Stands for a feed, so that a plan opens no data set."""

    def state_dict(self) -> dict[str, Any]:
        return {"consumed": 0}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing to restore."""


def state_sizes(stateful: Any) -> dict[str, int]:
    """Bytes of each tensor and array in a state, by number; for an optimizer that has not stepped yet, of those
    that it will have.
    """
    if isinstance(stateful, OptimizerState) and not stateful.optimizer.state:
        stateful = _after_a_step(stateful.optimizer)
    leaves = [_local(leaf) for leaf in torch.utils._pytree.tree_leaves(stateful.state_dict())]
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


def _after_a_step(optimizer: Optimizer) -> Optimizer:
    """A twin on the meta device that has stepped once."""
    memo: dict[int, Any] = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            twin = torch.nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)
            twin.grad = torch.empty_like(twin)
            memo[id(parameter)] = twin
    stepped: Optimizer = copy.deepcopy(optimizer, memo)
    stepped.step()
    return stepped


def _human(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.4g} {unit}"
        size /= 1000
    return f"{size:.4g} TB"
