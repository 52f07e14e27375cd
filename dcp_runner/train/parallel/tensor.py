"""Tensor parallelism: the plan's linear layers are split over ranks that see the same samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module

from dcp_runner.common.torch_private import replicate
from dcp_runner.train.parallel.fsdp import FullyShard, layer_by_layer
from dcp_runner.train.parallel.mesh import RankMesh
from dcp_runner.train.parallel.split_plan import SplitPlan, matching, name_problems
from dcp_runner.train.parallel.strategy import PlannedRun


class TensorParallel(FullyShard):
    """torch's `parallelize_module` over tp; what is left to fsdp is sharded, and what is left to dp replicated.

    Layers that the plan does not name are computed alike on all ranks of tp. Replicated is by torch's `replicate`, and
    not by DistributedDataParallel, which would put plain tensors in the place of the split ones. It needs no throw-away
    step: every layer is a bucket of its own from the first step on.
    """

    axes: Sequence[str] = ("dp", "fsdp", "tp")

    def validate(self, intended: PlannedRun) -> Iterator[str]:
        degree = intended.degrees["tp"]
        if degree == 1:
            return
        model, plan, name = intended.model, intended.plan, type(intended.model).__name__
        if missing := [*name_problems(model, plan)]:
            yield from missing
            return
        if not plan.columns and not plan.rows:
            yield f"parallel.tp={degree}: nothing says how to split {name}; name its layers in parallel.plan"
        if plan.heads is not None and plan.heads % degree:
            yield f"parallel.tp={degree}: it must divide the {plan.heads} heads of {name}"
        for side, patterns in {"out_features": plan.columns, "in_features": plan.rows}.items():
            for layer in (layer for pattern in patterns for layer in matching(model, pattern)):
                module = model.get_submodule(layer)
                if not isinstance(module, nn.Linear):
                    yield f"parallel.plan: {layer} is a {type(module).__name__}; only nn.Linear can be split"
                elif getattr(module, side) % degree:
                    yield f"parallel.tp={degree}: it must divide the {getattr(module, side)} {side} of {layer}"

    def wrap(self, model: nn.Module, place: RankMesh, plan: SplitPlan) -> nn.Module:
        if (mesh := place.along("tp")) is not None:
            styles: dict[str, ParallelStyle] = {}
            styles |= {name: ColwiseParallel() for pattern in plan.columns for name in matching(model, pattern)}
            styles |= {name: RowwiseParallel() for pattern in plan.rows for name in matching(model, pattern)}
            styles = {name: style for name, style in styles.items() if isinstance(model.get_submodule(name), nn.Linear)}
            model = parallelize_module(model.to(place.device), mesh, styles, src_data_rank=None)
        if (copies := place.along("dp")) is not None and place.along("fsdp") is None:
            self._data = copies

            def copy(module: nn.Module) -> Any:
                return replicate(module, mesh=copies)

            return layer_by_layer(model, plan, copy).to(place.device)
        return super().wrap(model, place, plan)
