"""Which protocols the objects of this library meet, and that plain objects meet only the two methods."""

from __future__ import annotations

import pytest
import torch
from solo import Box
from torch import nn

from dcp_runner import Topology
from dcp_runner.checkpoint.component import WithTraits
from dcp_runner.checkpoint.sharing import SharingTraits
from dcp_runner.checkpoint.state.modules import ModelState
from dcp_runner.checkpoint.state.optim.optimizers import OptimizerState
from dcp_runner.checkpoint.state.rng import RngState
from dcp_runner.checkpoint.stateful import (
    HasSharingTraits,
    Reshardable,
    Stateful,
    SupportsDiff,
    SupportsReset,
    SupportsSelection,
)

PROTOCOLS = (Stateful, HasSharingTraits, SupportsDiff, SupportsSelection, Reshardable, SupportsReset)
MODEL = nn.Linear(1, 1)
RESHARDABLE = {Stateful, HasSharingTraits, SupportsDiff, SupportsSelection, Reshardable}


@pytest.mark.parametrize(
    ("stateful", "expected"),
    [
        (object(), set()),
        (Box(), {Stateful}),
        (torch.optim.SGD(MODEL.parameters(), 0.1), {Stateful}),
        (WithTraits(Box(), SharingTraits("known")), {Stateful, HasSharingTraits}),
        (RngState(), {Stateful, HasSharingTraits, SupportsReset}),
        (ModelState(MODEL, "model", Topology(1)), RESHARDABLE),
        (OptimizerState(torch.optim.SGD(MODEL.parameters(), 0.1), []), RESHARDABLE),
    ],
    ids=lambda value: type(value).__name__,
)
def test_which_protocols_an_object_meets(stateful: object, expected: set[type]) -> None:
    assert {protocol for protocol in PROTOCOLS if isinstance(stateful, protocol)} == expected
