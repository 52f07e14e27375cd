"""Which device a rank computes on."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class Device(StrEnum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


def uses_cuda(device: Device, local_world_size: int) -> bool:
    """Whether the ranks of a node run on its GPUs; `auto` does where there is one for each rank."""
    import torch

    return device is Device.cuda or (device is Device.auto and torch.cuda.device_count() >= local_world_size)


def device_of(device: Device, local_rank: int, local_world_size: int) -> torch.device:
    """The device of this rank; a GPU also becomes torch's current one."""
    import torch

    if not uses_cuda(device, local_world_size):
        return torch.device("cpu")
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)
