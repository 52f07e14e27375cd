"""The state of a rank's stages has the names of the complete model."""

from __future__ import annotations

import pytest
import torch
from split_models import model, plan
from torch import nn

from dcp_runner.train.parallel.pipeline_split import build_stage
from dcp_runner.train.parallel.pipeline_stages import StageModule


def interleaved(whole: nn.Module) -> StageModule:
    """Stages 1 and 3 of 4."""
    parts = [build_stage(whole, plan(), number, 4) for number in (1, 3)]
    return StageModule(parts, parts, (1, 3), 4, [*whole.state_dict()])


def test_the_state_of_stages_has_the_names_of_the_model() -> None:
    whole, held = model(), interleaved(model())
    state = held.state_dict()
    assert [*state] == [name for name, _ in held.named_parameters()] == [n for n in whole.state_dict() if n in state]
    assert held.names_elsewhere == whole.state_dict().keys() - state.keys()
    assert "head.weight" in state and "embed.weight" in held.names_elsewhere
    assert held.names_vary_along == ("pp",)


def test_stages_take_their_part_of_a_state() -> None:
    held, other = interleaved(model()), model()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    state = other.state_dict()
    result = held.load_state_dict(state, strict=False)
    assert (result.missing_keys, set(result.unexpected_keys)) == ([], held.names_elsewhere)
    assert all(torch.equal(value, state[name]) for name, value in held.state_dict().items())
    with pytest.raises(RuntimeError, match="unexpected"):
        held.load_state_dict(state)
    with pytest.raises(RuntimeError, match=r"missing state \['head.weight'\]"):
        held.load_state_dict({name: value for name, value in held.state_dict().items() if name != "head.weight"})
