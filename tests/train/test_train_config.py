"""The configuration of the training loop as users write it."""

from __future__ import annotations

from typing import Any

import pytest

from dcp_runner.common.errors import ConfigError
from dcp_runner.config.convert import from_plain, to_plain
from dcp_runner.config.schema import RunConfig
from dcp_runner.train.config import Decay, NonFinite, Precision


def test_words_become_enums_and_go_back() -> None:
    trainer = {"precision": "bf16", "nonfinite": "warn", "clip_norm": None}
    config = from_plain({"name": "a", "trainer": trainer, "schedule": {"decay": "linear"}})
    assert config.trainer.precision is Precision.bf16 and config.trainer.nonfinite is NonFinite.warn
    assert config.schedule.decay is Decay.linear and config.trainer.clip_norm is None
    assert to_plain(config)["trainer"]["precision"] == "bf16" and from_plain(to_plain(config)) == config


@pytest.mark.parametrize(
    ("plain", "key"),
    [
        ({"trainer": {"precision": "fp8"}}, "trainer.precision"),
        ({"schedule": {"decay": "step"}}, "schedule.decay"),
        ({"trainer": {"max_steps": "many"}}, "trainer.max_steps"),
        ({"logger": {"progres": False}}, "logger.progres"),
    ],
)
def test_what_is_not_allowed_is_named(plain: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=key.replace(".", r"\.")):
        from_plain({"name": "a"} | plain)


def test_defaults_are_independent() -> None:
    first, second = RunConfig(), RunConfig()
    first.logger.trackers["a"] = {}
    assert second.logger.trackers == {}
