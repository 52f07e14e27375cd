"""States of every kind for tests on several ranks: made from a seed, so that every rank knows what every other one holds."""

from __future__ import annotations

import random
import struct
from collections import Counter, OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from dcp_runner.checkpoint.files.tensor_file import BYTES_ONLY, CODES
from dcp_runner.checkpoint.sharing import SharingPattern, SharingTraits

DTYPES = [getattr(torch, name) for name in [*CODES, *BYTES_ONLY] if hasattr(torch, name)]
MEGABYTE = 2**20


def random_tensor(dtype: torch.dtype, count: int, seed: int) -> torch.Tensor:
    """Random bits of any dtype, NaNs among them."""
    data = torch.frombuffer(bytearray(np.random.default_rng(seed).bytes(count * dtype.itemsize)), dtype=torch.uint8)
    return (data & 1).view(torch.bool) if dtype is torch.bool else data.view(dtype)


def state_of(seed: int, large: int = 0) -> dict[str, Any]:
    """A state that differs from every other seed's in each leaf, with `large` bytes in tensors of half a megabyte and one odd one."""
    draw = random.Random(seed)
    state: dict[str, Any] = {
        "dtypes": {str(dtype): random_tensor(dtype, 5, seed) for dtype in DTYPES},
        "nested": {"list": [seed, draw.random(), {"deep": torch.randn(3, 2, generator=_generator(seed))}]},
        "tuple": (
            seed,
            -0.0,
            float("nan"),
            float("inf"),
            None,
            True,
            2**70 + seed,
            f"seed {seed} \u00e4",
            bytes([seed % 256]),
        ),
        "kinds": OrderedDict(a=Counter({"x": seed}), b={1: seed, (2, "y"): seed}),
        "empty": torch.empty(0, 3),
        "step": torch.tensor(float(seed)),
        "array": np.arange(6, dtype=np.int16).reshape(2, 3) + seed % 1000,
        "transposed": torch.randn(3, 5, generator=_generator(seed + 1)).t(),
    }
    pieces = -(-large // (MEGABYTE // 2))
    for number in range(pieces):
        state[f"large.{number}"] = random_tensor(torch.float32, MEGABYTE // 8 + (number == 1), seed * 100 + number)
    return state


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bits(state: Any) -> Any:
    """Something that is == exactly where two states are equal in kinds, order of keys, and bits."""
    if isinstance(state, torch.Tensor):
        data = state.detach().contiguous().reshape(-1)
        return (
            "tensor",
            str(state.dtype),
            tuple(state.shape),
            bytes(data.view(torch.uint8).numpy()) if len(data) else b"",
        )
    if isinstance(state, np.ndarray):
        return ("array", state.dtype.str, state.shape, state.tobytes())
    if isinstance(state, Mapping):
        return (type(state).__name__, [(bits(key), bits(value)) for key, value in state.items()])
    if isinstance(state, list | tuple):
        return (type(state).__name__, [bits(value) for value in state])
    return (type(state).__name__, struct.pack(">d", state) if isinstance(state, float) else state)


class Box:
    """A Stateful that holds any state, and tells what was done to it."""

    def __init__(self, state: Any = None, traits: SharingTraits | None = None) -> None:
        self.state = {} if state is None else state
        self.loads = 0
        self.fresh: tuple[int, int] | None = None
        if traits is not None:
            self.sharing_traits = lambda: traits

    def state_dict(self) -> Any:
        return self.state

    def load_state_dict(self, state: Any) -> None:
        self.state = state
        self.loads += 1

    def reset(self, step: int, rank: int) -> None:
        self.fresh = (step, rank)


__all__ = ["DTYPES", "MEGABYTE", "Box", "SharingPattern", "bits", "random_tensor", "state_of"]
