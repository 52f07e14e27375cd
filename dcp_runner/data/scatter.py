"""Repeated scatters of values from the first rank of a group to all of its ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import pad

from dcp_runner.data.packing import pack, unpack

_FAILED = -1


class Scatter:
    """Sends values of nested CPU tensors from rank 0 of a group to all of its ranks (a group with a CPU backend).

    Each call runs these collectives:

    1. two numbers from rank 0: the bytes that each rank is about to receive, and whether the headers have changed;
    2. only if they have: the headers, by pickle;
    3. one scatter of the buffers, padded to the size of the longest.

    So shapes may change from call to call, at the cost of one more broadcast. Rank 0 sends to one rank after the other:
    its time grows with ranks times bytes.
    """

    def __init__(self, group: dist.ProcessGroup, value_of_rank: Sequence[int]) -> None:
        """`value_of_rank` has the index of the value that each rank of the group receives."""
        self._group = group
        self._rank = dist.get_rank(group)
        self._value_of_rank = value_of_rank
        self._headers: list[bytes] = []

    def __call__(self, make: Callable[[], Sequence[Any]]) -> Any:
        """This rank's value of those that `make` returns, which is called on rank 0 only. All ranks call this.

        Raises:
            RuntimeError: `make` has raised on rank 0, where its own error is raised.
        """
        announcement = torch.tensor([_FAILED, 0])
        headers, buffers = self._headers, None
        try:
            if self._rank == 0:
                headers, buffers = _pack_equal([*make()])
                announcement = torch.tensor([len(buffers[0]), headers != self._headers])
        finally:  # A failure is announced too, so that the other ranks do not wait for their time-out.
            dist.broadcast(announcement, group=self._group, group_src=0)
        size, changed = announcement.tolist()
        if size == _FAILED:
            raise RuntimeError("rank 0 failed to produce the values for the other ranks; see its own error")
        if changed:
            received = [headers]
            dist.broadcast_object_list(received, group=self._group, group_src=0)
            self._headers = received[0]
        own_buffer = torch.empty(size, dtype=torch.uint8)
        by_rank = [buffers[number] for number in self._value_of_rank] if buffers else None
        dist.scatter(own_buffer, by_rank, group=self._group, group_src=0)
        return unpack(self._headers[self._value_of_rank[self._rank]], own_buffer)


def _pack_equal(values: Sequence[Any]) -> tuple[list[bytes], list[Tensor]]:
    """The headers and the buffers of some values; the buffers are padded to one size, as a scatter needs."""
    packed = [pack(value) for value in values]
    size = max(len(buffer) for _, buffer in packed)
    return [header for header, _ in packed], [pad(buffer, (0, size - len(buffer))) for _, buffer in packed]
