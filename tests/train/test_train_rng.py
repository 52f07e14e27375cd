"""Code that leaves the random generators as it found them."""

from __future__ import annotations

import random

import numpy
import pytest
import torch
from noisy_items import generator_states

from dcp_runner.train.rng import preserve_rng


@pytest.mark.parametrize("fails", [False, True])
def test_all_generators_are_restored_also_after_an_error(fails: bool) -> None:
    before = generator_states()
    try:
        with preserve_rng():
            random.random()
            numpy.random.random()
            torch.rand(3)
            assert generator_states() != before
            if fails:
                raise KeyError
    except KeyError:
        assert fails
    assert generator_states() == before
