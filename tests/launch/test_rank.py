"""One rank of a run: all have the same configuration, or all of them say why not."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from torch.distributed import HashStore

from dcp_runner.common.errors import ConfigError
from dcp_runner.common.launch_env import Starter, World
from dcp_runner.common.signals import StopFlag
from dcp_runner.launch import rank as ranks


def agree(digests: list[str | None], stop: StopFlag | None = None) -> list[str | None]:
    """What each rank is told; a rank without a digest never comes."""
    store, size = HashStore(), len(digests)

    def one(rank: int) -> str | None:
        world = World(Starter.internal, rank, size, rank, size, "", 0)
        digest = digests[rank]
        if digest is not None:
            try:
                ranks.agree_on_config(store, world, digest, stop or StopFlag())
            except ConfigError as error:
                return str(error)
        return None

    with ThreadPoolExecutor(size) as threads:
        return list(threads.map(one, range(size)))


def test_the_same_configuration() -> None:
    assert agree(["a"] * 4) == [None] * 4


def test_every_rank_is_told_who_differs() -> None:
    assert agree(["a", "b", "a", "c"]) == ["config: rank 1, 3 has another configuration than rank 0"] * 4


def test_every_rank_is_told_who_did_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "MEETING_S", 0.2)
    told = "rank 2 did not appear within 0 s"
    assert agree(["a", "a", None]) == [told, told, None]
    assert agree([None, "a", "a"])[1:] == ["rank 0 did not answer when the ranks compared their configurations"] * 2


def test_a_stop_signal_ends_the_wait() -> None:
    stop = StopFlag()
    stop.signal = 15
    with pytest.raises(SystemExit, match="143"):
        agree(["a", None], stop)
