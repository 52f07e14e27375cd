"""The split plan of a model, and the modules that its names match."""

from __future__ import annotations

from split_models import model
from torch import nn

from dcp_runner.train.parallel.config import SplitPlanConfig
from dcp_runner.train.parallel.split_plan import SplitPlan, matching_modules, resolve_split_plan, validate_names


def test_a_star_is_one_part_of_a_name() -> None:
    assert matching_modules(model(2), "blocks.*.mlp") == ["blocks.0.mlp", "blocks.1.mlp"]
    assert matching_modules(model(2), "blocks.*") == ["blocks.0", "blocks.1"]
    assert matching_modules(model(2), "*.0.attention.query") == ["blocks.0.attention.query"]
    assert matching_modules(model(2), "head") == ["head"] and matching_modules(model(2), "hea") == []


def test_the_configuration_wins_over_the_models_own_plan() -> None:
    made = resolve_split_plan(model(), SplitPlanConfig(last=["head"], heads=4))
    assert (made.last, made.heads, made.layers) == (["head"], 4, "blocks")
    assert resolve_split_plan(nn.Linear(1, 1), SplitPlanConfig()) == SplitPlan()


def test_names_that_the_model_does_not_have_are_reported() -> None:
    split_plan = SplitPlan(columns=["blocks.*.attention.kwery"], layers="blocks", last=["hed"])
    assert [*validate_names(model(), split_plan)] == [
        "parallel.plan.columns: GPT has no module 'blocks.*.attention.kwery'",
        "parallel.plan.last: GPT has no module 'hed'",
    ]
