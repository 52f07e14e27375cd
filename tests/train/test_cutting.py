"""Stages are the model, cut: nothing is lost, nothing is held twice, and one after the other they compute the same."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dcp_runner.checkpoint.topology import Topology
from dcp_runner.models.gpt import GPT
from dcp_runner.train.parallel.config import SplitPlanConfig
from dcp_runner.train.parallel.mesh import random_stream
from dcp_runner.train.parallel.pipeline_split import build_stage, validate_split
from dcp_runner.train.parallel.pipeline_stages import StageModule
from dcp_runner.train.parallel.split_plan import SplitPlan, matching_modules, resolve_split_plan


def model(layers: int = 5, tied: bool = False) -> GPT:
    torch.manual_seed(0)
    return GPT(vocab_size=30, context=8, layers=layers, heads=2, width=8, tied=tied)


def plan() -> SplitPlan:
    return resolve_split_plan(model(), SplitPlanConfig())


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_stages_are_the_model(count: int) -> None:
    whole = model()
    stages = [build_stage(whole, plan(), number, count) for number in range(count)]
    names = [name for stage in stages for name, _ in stage.named_parameters()]
    assert sorted(names) == sorted(name for name, _ in whole.named_parameters())
    parameters = dict(whole.named_parameters())
    assert all(parameters[name] is one for stage in stages for name, one in stage.named_parameters())
    sizes = [len(stage.blocks) for stage in stages]
    assert max(sizes) - min(sizes) <= 1 and sum(sizes) == 5
    x: Tensor = (tokens := torch.randint(30, (2, 8)))
    for stage in stages:
        x = stage(x)
    assert torch.equal(x, whole(tokens))


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


def test_tied_weights_may_stay_in_one_stage_only() -> None:
    tied = model(tied=True)
    assert [*validate_split(tied, plan(), 1)] == []
    (told,) = validate_split(tied, plan(), 2)
    assert told.startswith("parallel.pp: embed.weight and head.weight are one tied parameter")


def test_a_star_is_one_part_of_a_name() -> None:
    assert matching_modules(model(2), "blocks.*.mlp") == ["blocks.0.mlp", "blocks.1.mlp"]
    assert matching_modules(model(2), "blocks.*") == ["blocks.0", "blocks.1"]
    assert matching_modules(model(2), "*.0.attention.query") == ["blocks.0.attention.query"]
    assert matching_modules(model(2), "head") == ["head"] and matching_modules(model(2), "hea") == []


def test_the_configuration_wins_over_the_models_own_plan() -> None:
    made = resolve_split_plan(model(), SplitPlanConfig(last=["head"], heads=4))
    assert (made.last, made.heads, made.layers) == (["head"], 4, "blocks")
    assert resolve_split_plan(nn.Linear(1, 1), SplitPlanConfig()) == SplitPlan()


def test_ranks_that_differ_along_tp_alone_draw_the_same() -> None:
    topology = Topology(8, {"pp": 2, "dp": 2, "tp": 2})
    assert [random_stream(topology, rank) for rank in range(8)] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [random_stream(Topology(3, {"dp": 3}), rank) for rank in range(3)] == [0, 1, 2]
