"""Buffers that DistributedDataParallel takes from the first rank, synchronised before a save compares the holders."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from dcp_runner.checkpoint.bind import BoundComponent
from dcp_runner.checkpoint.state.modules import ModelState
from dcp_runner.checkpoint.sync.comm import Comm


def sync_ddp_buffers(bound: Sequence[BoundComponent], comm: Comm) -> None:
    """Overwrite the other holders' buffers with those of the first one, where the model's own rule says so.

    DistributedDataParallel does so with buffers such as BatchNorm's statistics, but only in the next step. Called by
    all ranks. Raises CheckpointError.
    """
    models = {
        part.key: part.stateful.modules_with_broadcast_buffers
        for part in bound
        if isinstance(part.stateful, ModelState)
    }
    if not any(models.values()):
        return
    tensors = {key: [buffer for module in found for buffer in module.buffers()] for key, found in models.items()}
    sizes = comm.exchange("plan", {key: sum(map(_size, buffers)) for key, buffers in tensors.items()})
    for component in bound:
        for copy in component.copies:
            if size := sizes[copy.holders[0]].get(component.key, 0):
                own = tensors[component.key] if comm.rank in copy.holders else []
                comm.agree("plan", partial(_overwrite, own, size, copy.holders[0], comm))


def _overwrite(tensors: Sequence[torch.Tensor], size: int, source: int, comm: Comm) -> None:
    packed = [tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for tensor in tensors]
    data = torch.cat(packed) if packed else torch.empty(size, dtype=torch.uint8)
    comm.send(data, source)
    start = 0
    for tensor in tensors:
        part = data[start : start + _size(tensor)].clone()
        tensor.detach().copy_(part.view(tensor.dtype).view(tensor.shape))
        start += len(part)


def _size(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
