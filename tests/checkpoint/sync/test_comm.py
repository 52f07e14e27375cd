"""Payloads beside the verdicts, and who may connect. One process; tests/distributed has real ranks."""

from __future__ import annotations

import re

import pytest
import torch
import torch.distributed as dist

from dcp_runner.checkpoint.errors import CheckpointError
from dcp_runner.checkpoint.sync.comm import Comm, connect
from dcp_runner.checkpoint.sync.phases import PhaseRunner
from dcp_runner.common.torch_private import fake_store


def test_a_rank_alone_needs_no_process_group_and_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    comm = connect(1, 5.0)
    monkeypatch.setattr(dist, "ProcessGroupGloo", None)
    assert (comm.rank, comm.world_size) == (0, 1)
    assert comm.agree("plan", lambda: object) is object
    assert comm.exchange("plan", {"a": 1}) == [{"a": 1}] and comm.on_rank_0("plan", lambda: [1, None]) == [1, None]
    comm.require_equal("open", {"component": "replicated"})
    comm.agree("commit", comm.acquire_commit_permit)


def test_it_has_a_phase_runner_and_is_none() -> None:
    assert not issubclass(Comm, PhaseRunner)


def test_the_topology_must_have_as_many_ranks_as_the_process_group() -> None:
    with pytest.raises(ValueError, match=re.escape("4 ranks, but there is no process group; call torch.distributed")):
        connect(4, 5.0)
    dist.init_process_group("fake", store=fake_store(), rank=0, world_size=2)
    try:
        with pytest.raises(ValueError, match="the topology has 4 ranks, the process group 2"):
            connect(4, 5.0)
    finally:
        dist.destroy_process_group()


def test_a_failed_phase_drops_the_connection() -> None:
    """On all ranks alike: it may be broken, and the next payload connects under another name."""
    comm = Comm(dist.HashStore(), 0, 1)
    data = torch.ones(2)
    comm.agree("read", lambda: comm.send(data, 0))
    first = comm._group
    with pytest.raises(CheckpointError):
        comm.agree("read", lambda: 1 / 0)
    assert first is not None and comm._group is None
    comm.agree("read", lambda: comm.send(data, 0))
    assert comm._group is not first and data.tolist() == [1, 1]
