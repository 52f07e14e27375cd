"""The device of a rank."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class Device(StrEnum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


def uses_cuda(requested: Device, local_world_size: int) -> bool:
    """Whether the ranks of this node run on GPUs; `auto` uses them where there is one for each rank."""
    import torch

    return requested is Device.cuda or (requested is Device.auto and torch.cuda.device_count() >= local_world_size)


def device_of(requested: Device, local_rank: int, local_world_size: int) -> torch.device:
    """The device of this rank; where that is a GPU, it becomes the current one."""
    import torch

    if not uses_cuda(requested, local_world_size):
        return torch.device("cpu")
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)
