"""One value from the first rank of a group to each of its ranks, again and again."""

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

    Each call goes through these collectives:

    1. two numbers from rank 0: the bytes that each rank is about to get, and whether the headers have changed;
    2. only when they have: the headers, by pickle;
    3. one scatter of the buffers, padded to the size of the longest.

    So shapes may change from call to call, and cost one more broadcast when they do. Rank 0 sends to each rank in
    turn: its time grows with ranks times bytes.
    """

    def __init__(self, group: dist.ProcessGroup, value_of_rank: Sequence[int]) -> None:
        """`value_of_rank` says, for each rank of the group, which of the values it gets."""
        self._group = group
        self._rank = dist.get_rank(group)
        self._value_of_rank = value_of_rank
        self._headers: list[bytes] = []

    def __call__(self, make: Callable[[], Sequence[Any]]) -> Any:
        """This rank's value of those that `make`, which is called on rank 0 alone, returns (all ranks).

        Raises:
            RuntimeError: `make` has raised on rank 0, where its own error comes through.
        """
        notice = torch.tensor([_FAILED, 0])
        headers, buffers = self._headers, None
        try:
            if self._rank == 0:
                headers, buffers = _pack_equal([*make()])
                notice = torch.tensor([len(buffers[0]), headers != self._headers])
        finally:  # A failure is announced too, so that the other ranks do not wait for their time-out.
            dist.broadcast(notice, group=self._group, group_src=0)
        size, changed = notice.tolist()
        if size == _FAILED:
            raise RuntimeError("rank 0 could not make the values that it sends to the ranks; its own error says why")
        if changed:
            box = [headers]
            dist.broadcast_object_list(box, group=self._group, group_src=0)
            self._headers = box[0]
        mine = torch.empty(size, dtype=torch.uint8)
        turns = [buffers[number] for number in self._value_of_rank] if buffers else None
        dist.scatter(mine, turns, group=self._group, group_src=0)
        return unpack(self._headers[self._value_of_rank[self._rank]], mine)


def _pack_equal(values: Sequence[Any]) -> tuple[list[bytes], list[Tensor]]:
    """The headers and the buffers of some values; the buffers padded to one size, as a scatter wants them."""
    packed = [pack(value) for value in values]
    size = max(len(buffer) for _, buffer in packed)
    return [header for header, _ in packed], [pad(buffer, (0, size - len(buffer))) for _, buffer in packed]
