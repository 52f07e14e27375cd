"""Buffers that DistributedDataParallel takes from the first rank are taken from it before a save, too."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from few_ranks import among
from torch import nn

from dcp_runner.checkpoint.bind import bind
from dcp_runner.checkpoint.component import StateComponent
from dcp_runner.checkpoint.saving.ddp_buffers import sync_ddp_buffers
from dcp_runner.checkpoint.state.modules import ModelState
from dcp_runner.checkpoint.sync.comm import Comm
from dcp_runner.checkpoint.topology import Topology


@pytest.mark.parametrize(("sharing", "expected"), [("replicated", [0.0, 0.0]), ("per_rank", [0.0, 1.0])])
def test_the_first_holder_of_each_copy_has_the_last_word(
    sharing: str, expected: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for a module that is wrapped with broadcast_buffers=True, which needs a process group to be made."""
    monkeypatch.setattr(ModelState, "modules_with_broadcast_buffers", property(lambda state: [state.wrapper]))

    def work(comm: Comm) -> Any:
        model = nn.BatchNorm1d(3)
        model.running_mean.fill_(comm.rank)
        model.weight.data.fill_(comm.rank)
        sync_ddp_buffers(bind([StateComponent("model", model, sharing)], Topology(2), comm.rank), comm)
        assert torch.all(model.weight == comm.rank), "parameters stay"
        return float(model.running_mean[0])

    assert among(2, work) == expected


def test_without_such_a_model_no_message_is_sent() -> None:
    def work(comm: Comm) -> Any:
        comm.exchange = None  # type: ignore[method-assign, assignment]
        return sync_ddp_buffers(bind([StateComponent("model", nn.BatchNorm1d(3))], Topology(2), comm.rank), comm)

    assert among(2, work) == [None, None]
