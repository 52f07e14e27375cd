"""The mesh of a rank, and the random stream that it draws from."""

from __future__ import annotations

import torch

from dcp_runner.checkpoint.topology import Topology
from dcp_runner.train.parallel.mesh import RankMesh, random_stream, rank_mesh


def test_ranks_that_differ_along_tp_alone_draw_the_same() -> None:
    topology = Topology(8, {"pp": 2, "dp": 2, "tp": 2})
    assert [random_stream(topology, rank) for rank in range(8)] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [random_stream(Topology(3, {"dp": 3}), rank) for rank in range(3)] == [0, 1, 2]


def test_one_rank_has_no_mesh() -> None:
    alone = rank_mesh(Topology(1), torch.device("cpu"))
    assert alone == RankMesh(torch.device("cpu")) and alone.along("dp", "tp") is None
