"""The random generators of a rank as a component: those of Python, numpy, torch's CPU and the rank's CUDA device."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

from dcp_runner.checkpoint.sharing import SharingPattern, SharingTraits


def seed_all(*parts: int) -> None:
    """Seed all generators of this process from some ints, such as (seed, step, rank)."""
    words = np.random.SeedSequence([part % 2**64 for part in parts]).generate_state(4, np.uint64)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]) % 2**32)
    torch.manual_seed(int(words[2]) % 2**63)


class RngState:
    """All generators that training draws from, different on each rank; `reset` seeds them from (seed, step, rank)."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def state_dict(self) -> dict[str, Any]:
        state = {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state()}
        if torch.cuda.is_available():
            state["cuda"] = torch.cuda.get_rng_state()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        random.setstate(state_dict["python"])
        np.random.set_state(state_dict["numpy"])
        torch.set_rng_state(state_dict["torch"])
        if torch.cuda.is_available() and "cuda" in state_dict:
            torch.cuda.set_rng_state(state_dict["cuda"])

    def reset(self, step: int, rank: int) -> None:
        seed_all(self.seed, step, rank)

    def sharing_traits(self) -> SharingTraits:
        return SharingTraits("every rank draws its own random numbers", pattern=SharingPattern.PER_RANK)
