"""The device of a rank."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from dcp_runner.common.run_context import RunContext

if TYPE_CHECKING:
    import torch


class Device(StrEnum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


def device_of(wish: Device, run: RunContext) -> torch.device:
    """The device of this rank; `auto` takes CUDA where every rank of the node has a GPU."""
    import torch

    cuda = wish is Device.cuda or (wish is Device.auto and torch.cuda.device_count() >= run.local_world_size)
    if not cuda:
        return torch.device("cpu")
    torch.cuda.set_device(run.local_rank)
    return torch.device("cuda", run.local_rank)
