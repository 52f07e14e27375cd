"""One rank of a larger world without the others: DTensors can be made and looked at, but nothing is communicated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist


@contextmanager
def rank_of_mesh(rank: int, sizes: tuple[int, ...], names: tuple[str, ...]) -> Iterator[Any]:
    """The DeviceMesh as this rank sees it."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.testing._internal.distributed.fake_pg import FakeStore

    world = 1
    for size in sizes:
        world *= size
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world)
    try:
        yield init_device_mesh("cpu", sizes, mesh_dim_names=names)
    finally:
        dist.destroy_process_group()
