"""Random tokens: a data set without files, for trying out everything but learning."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import Dataset

from dcp_runner.data.hash import mix


class RandomTokens(Dataset[tuple[Tensor, Tensor]]):
    """`length` items (inputs, targets), int64 of shape (context,) with values below `vocab`, targets one token ahead.

    An item depends only on (seed, index).
    """

    def __init__(self, length: int, context: int, vocab: int, seed: int = 0) -> None:
        self._length = length
        self._context = context
        self._vocab = vocab
        self._seed = seed

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if not 0 <= index < self._length:
            raise IndexError(f"index must be below {self._length}, found {index}")
        generator = torch.Generator().manual_seed(mix(self._seed, index))
        window = torch.randint(self._vocab, (self._context + 1,), generator=generator)
        return window[:-1], window[1:]
