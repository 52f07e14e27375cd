"""Tensors in which the first holder has the last word, given to all holders before a save compares them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from dcp_runner.checkpoint.bind import BoundComponent
from dcp_runner.checkpoint.state.modules import ModelState
from dcp_runner.checkpoint.sync.comm import Comm


def sync_ddp_buffers(bound: Sequence[BoundComponent], comm: Comm) -> None:
    """Overwrite the other holders' tensors with the first one's, where that is the object's own rule.

    DistributedDataParallel does so with buffers, as BatchNorm's statistics, but only in the next step. Called by all
    ranks. Raises CheckpointError.
    """
    models = {
        one.key: one.stateful.modules_with_broadcast_buffers for one in bound if isinstance(one.stateful, ModelState)
    }
    if not any(models.values()):
        return
    tensors = {key: [buffer for module in found for buffer in module.buffers()] for key, found in models.items()}
    sizes = comm.exchange("plan", {key: sum(map(_size, mine)) for key, mine in tensors.items()})
    for one in bound:
        for copy in one.copies:
            if size := sizes[copy.holders[0]].get(one.key, 0):
                mine = tensors[one.key] if comm.rank in copy.holders else []
                comm.agree("plan", partial(_take_over, mine, size, copy.holders[0], comm))


def _take_over(tensors: Sequence[torch.Tensor], size: int, source: int, comm: Comm) -> None:
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
