"""One rank."""

from __future__ import annotations

from torch import nn

from dcp_runner.train.parallel.mesh import RankMesh
from dcp_runner.train.parallel.split_plan import SplitPlan
from dcp_runner.train.parallel.strategy import Strategy


class Single(Strategy):
    """The model as it is."""

    def wrap(self, model: nn.Module, mesh: RankMesh, split_plan: SplitPlan) -> nn.Module:
        return model.to(mesh.device)
