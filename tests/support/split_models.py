"""A small GPT that can be split, and its split plan."""

from __future__ import annotations

import torch

from dcp_runner.models.gpt import GPT
from dcp_runner.train.parallel.config import SplitPlanConfig
from dcp_runner.train.parallel.split_plan import SplitPlan, resolve_split_plan


def model(layers: int = 5, tied: bool = False) -> GPT:
    torch.manual_seed(0)
    return GPT(vocab_size=30, context=8, layers=layers, heads=2, width=8, tied=tied)


def plan() -> SplitPlan:
    return resolve_split_plan(model(), SplitPlanConfig())
