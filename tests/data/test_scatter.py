"""Repeated scatters of nested tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from data_ranks import run_ranks

from dcp_runner.data.scatter import Scatter


def test_headers_are_sent_only_when_they_change(tmp_path: Path) -> None:
    def body(group: Any, rank: int) -> Any:
        sent = 0
        broadcast_object_list = dist.broadcast_object_list

        def counted(*args: Any, **kwargs: Any) -> None:
            nonlocal sent
            sent += 1
            broadcast_object_list(*args, **kwargs)

        dist.broadcast_object_list = counted
        scatter = Scatter(group, [0, 1])
        widths = [3, 3, 3, 4, 4, 0, 3]
        got = [scatter(lambda width=width: [torch.ones(width), torch.zeros(width)]) for width in widths]
        return sent, [(len(tensor), tensor.sum().item()) for tensor in got]

    assert run_ranks(body, 2, tmp_path) == [
        (4, [(3, 3), (3, 3), (3, 3), (4, 4), (4, 4), (0, 0), (3, 3)]),
        (4, [(3, 0), (3, 0), (3, 0), (4, 0), (4, 0), (0, 0), (3, 0)]),
    ]
