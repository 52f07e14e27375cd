"""The app's own model and data: a small network learns the sine function from noisy points."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset


class Net(nn.Sequential):
    """One hidden layer."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.Linear(1, width), nn.Tanh(), nn.Linear(width, 1))


class Sine(Dataset[tuple[Tensor, Tensor]]):
    """Item i is (x, sin x plus noise), both of shape (1,)."""

    def __init__(self, points: int, noise: float = 0.1, seed: int = 0) -> None:
        random = torch.Generator().manual_seed(seed)
        self.x = 6.0 * torch.rand(points, 1, generator=random) - 3.0
        self.y = self.x.sin() + noise * torch.randn(points, 1, generator=random)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.x[index], self.y[index]
