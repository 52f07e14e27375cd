"""Tensor parallelism: linear layers are split over ranks that see the same samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module

from dcp_runner.common.torch_private import replicate
from dcp_runner.train.parallel.fsdp import FullyShard, layer_by_layer
from dcp_runner.train.parallel.mesh import RankMesh
from dcp_runner.train.parallel.split_plan import SplitPlan, matching_modules, validate_names
from dcp_runner.train.parallel.strategy import PlannedRun


class TensorParallel(FullyShard):
    """torch's `parallelize_module` over tp; the result is sharded over fsdp and replicated over dp.

    Layers that the split plan does not name are computed redundantly on all tp ranks. Replication uses torch's
    `replicate`: DistributedDataParallel would replace the split tensors by plain ones. It needs no dry step: every
    layer is a bucket of its own from the first step on.
    """

    axes: Sequence[str] = ("dp", "fsdp", "tp")

    def validate(self, planned: PlannedRun) -> Iterator[str]:
        degree = planned.degrees["tp"]
        if degree == 1:
            return
        model, split_plan, name = planned.model, planned.split_plan, type(planned.model).__name__
        if unknown := [*validate_names(model, split_plan)]:
            yield from unknown
            return
        if not split_plan.columns and not split_plan.rows:
            yield f"parallel.tp={degree}: no plan for splitting {name}; name its layers in parallel.plan"
        if split_plan.heads is not None and split_plan.heads % degree:
            yield f"parallel.tp={degree}: must divide the {split_plan.heads} heads of {name}"
        for side, patterns in {"out_features": split_plan.columns, "in_features": split_plan.rows}.items():
            for layer in (layer for pattern in patterns for layer in matching_modules(model, pattern)):
                module = model.get_submodule(layer)
                if not isinstance(module, nn.Linear):
                    yield f"parallel.plan: {layer} is a {type(module).__name__}; only nn.Linear can be split"
                elif getattr(module, side) % degree:
                    yield f"parallel.tp={degree}: must divide {side}={getattr(module, side)} of {layer}"

    def wrap(self, model: nn.Module, mesh: RankMesh, split_plan: SplitPlan) -> nn.Module:
        if (tp_mesh := mesh.along("tp")) is not None:
            model = parallelize_module(model.to(mesh.device), tp_mesh, _styles(model, split_plan), src_data_rank=None)
        if (dp_mesh := mesh.along("dp")) is not None and mesh.along("fsdp") is None:
            self._data_mesh = dp_mesh

            def copy(module: nn.Module) -> Any:
                return replicate(module, mesh=dp_mesh)

            return layer_by_layer(model, split_plan, copy).to(mesh.device)
        return super().wrap(model, mesh, split_plan)


def _styles(model: nn.Module, split_plan: SplitPlan) -> dict[str, ParallelStyle]:
    """How each linear layer that the plan names is split."""
    styles: dict[str, ParallelStyle] = {}
    for pattern in split_plan.columns:
        styles |= {name: ColwiseParallel() for name in matching_modules(model, pattern)}
    for pattern in split_plan.rows:
        styles |= {name: RowwiseParallel() for name in matching_modules(model, pattern)}
    return {name: style for name, style in styles.items() if isinstance(model.get_submodule(name), nn.Linear)}
