"""One rank."""

from __future__ import annotations

from torch import nn

from dcp_runner.train.place import Place
from dcp_runner.train.plan import Plan
from dcp_runner.train.strategy import Strategy


class Single(Strategy):
    """The model as it is."""

    def wrap(self, model: nn.Module, place: Place, plan: Plan) -> nn.Module:
        return model.to(place.device)
