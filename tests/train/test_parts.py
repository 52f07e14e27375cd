"""Batches of a rank go to its device; the dry step leaves no trace."""

from __future__ import annotations

from collections import namedtuple

import torch
from runs import TINY, config

from dcp_runner.checkpoint.topology import Topology
from dcp_runner.run.build import build_parts
from dcp_runner.train.config import Precision
from dcp_runner.train.parallel.ddp import DataParallel

Pair = namedtuple("Pair", "left right")


def test_only_tensors_are_moved() -> None:
    parts = build_parts(config(), Topology(1), torch.device("meta"))
    moved = parts.to_device(({"tokens": torch.ones(3)}, Pair([torch.zeros(2)], "text")))
    assert moved[0]["tokens"].is_meta and moved[1].left[0].is_meta and moved[1].right == "text"


def test_the_dry_step_changes_nothing() -> None:
    parts = build_parts(config(**{"model": TINY["model"] | {"dropout": 0.0}}), Topology(1), torch.device("cpu"))
    parts = type(parts)(**{**parts.__dict__, "strategy": DataParallel()})
    before = {name: value.clone() for name, value in parts.model.state_dict().items()}
    batch = torch.randint(32, (2, 4, 8))
    parts.warm_up((batch[0], batch[1]), Precision.bf16)
    assert all(torch.equal(value, before[name]) for name, value in parts.model.state_dict().items())
    assert all(parameter.grad is None for parameter in parts.model.parameters())
