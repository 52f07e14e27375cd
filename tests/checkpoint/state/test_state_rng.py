"""Random generators continue exactly where they were, or are seeded anew."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch
from solo import alone

from dcp_runner import StateComponent
from dcp_runner.checkpoint.state.rng import RngState, seed_all


def test_generators_draw_on_where_they_stood(tmp_path: Path) -> None:
    def draws() -> list[float]:
        return [random.random(), random.gauss(0, 1), float(np.random.standard_normal()), *torch.randn(3).tolist()]

    coordinator = alone(tmp_path, StateComponent("rng", RngState(seed=3), on_missing_copy="fresh"))
    seed_all(7)
    random.gauss(0, 1)
    np.random.standard_normal()  # both keep a second number for the next call
    coordinator.save(1)
    expected = draws()
    seed_all(8)
    coordinator.load(1)
    assert draws() == expected
    coordinator.load(1, fresh=["rng"])
    reseeded = draws()
    seed_all(3, 1, 0)
    assert reseeded == draws() != expected
