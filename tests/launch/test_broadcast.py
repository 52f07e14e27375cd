"""What rank 0 sends to the others: each configuration once, and then its exit code. The channel is a list here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from dcp_runner.common.launch_env import Starter, World
from dcp_runner.launch import rendezvous
from dcp_runner.launch.broadcast import ConfigBroadcast, RunFailed, follow, follow_once


class Messages:
    """Stands for the channel of all ranks."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.finished = 0

    def send(self, **message: Any) -> None:
        self.sent.append(message)

    def receive(self) -> dict[str, Any]:
        return self.sent.pop(0)

    def finish_job(self, *, wait_for_rank_0: bool = False) -> None:
        self.finished += 1


def world(rank: int, size: int = 2) -> World:
    return World(Starter.torchrun, rank, size, rank, size, "host", (1,))


@pytest.fixture
def messages(monkeypatch: pytest.MonkeyPatch) -> Iterator[Messages]:
    channel = Messages()
    monkeypatch.setattr(rendezvous, "channel", lambda world: channel)
    before = HydraConfig.instance().cfg
    HydraConfig.instance().cfg = OmegaConf.create({"hydra": {"job": {"num": 7}}})  # type: ignore[assignment]
    yield channel
    HydraConfig.instance().cfg = before


CONFIG = OmegaConf.create({"seed": 3, "same": "${seed}"})


def send(world: World | None, *configs: DictConfig, error: BaseException | None = None) -> list[int]:
    """As rank 0: the seeds that its own task has seen."""
    seen: list[int] = []
    with ConfigBroadcast(lambda cfg: seen.append(cfg.seed), world) as broadcast:
        for config in configs:
            broadcast.task(config)
        if error is not None:
            raise error
    return seen


def test_other_ranks_see_the_configuration_of_rank_0_and_end_with_its_code(messages: Messages) -> None:
    assert send(world(0), CONFIG, CONFIG) == [3, 3]
    HydraConfig.instance().cfg = None
    seen: list[Any] = []
    with pytest.raises(SystemExit, match="0"):
        follow(lambda cfg: seen.append((cfg, HydraConfig.get().job.num)), world(1))
    assert seen == [({"seed": 3, "same": 3}, 7)] * 2
    assert messages.finished == 2 and not messages.sent


@pytest.mark.parametrize(("error", "code"), [(SystemExit(2), 2), (ValueError("boom"), 1), (KeyboardInterrupt(), 130)])
def test_an_error_of_rank_0_ends_all(error: BaseException, code: int, messages: Messages) -> None:
    with pytest.raises(type(error)):
        send(world(0), error=error)
    with pytest.raises(SystemExit) as end:
        follow(lambda cfg: None, world(1))
    assert end.value.code == code


@pytest.mark.parametrize("alone", [None, world(0, size=1)])
def test_a_single_rank_sends_nothing(alone: World | None, messages: Messages) -> None:
    assert send(alone, CONFIG) == [3]
    assert messages.sent == [] and messages.finished == 0


def fails(cfg: DictConfig) -> None:
    raise RunFailed("reported")


def test_in_a_sweep_a_failed_job_does_not_end_the_others(messages: Messages) -> None:
    send(world(0), CONFIG, CONFIG)
    with pytest.raises(SystemExit, match="0"):
        follow(fails, world(1))
    assert not messages.sent


def test_a_single_job_that_fails_ends_its_rank_at_once(messages: Messages) -> None:
    send(world(0), CONFIG)
    with pytest.raises(SystemExit, match="1"):
        follow_once(fails, world(1))
    assert messages.sent == [{"exit": 0}] and messages.finished == 2
