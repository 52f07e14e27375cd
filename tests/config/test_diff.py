"""What changed in a configuration, and with what effect."""

from __future__ import annotations

from typing import Any

import pytest

from dcp_runner.config.diff import changes

OLD: Any = {
    "name": "a",
    "seed": 1,
    "optim": {"_target_": "SGD", "lr": 0.1, "betas": [0.9, 0.9]},
    "model": {"width": 8, "gone": True},
    "callbacks": {},
}


@pytest.mark.parametrize(
    ("change", "override", "expected"),
    [
        ({}, [], []),
        ({"name": "b", "dry_run": True, "resume": "best"}, [], []),
        ({"resume_override": ["optim.lr"], "resume_skip": ["x"], "resume_rng": "reseed"}, [], []),
        ({"seed": 2}, [], [("seed", 1, 2, "new value")]),
        ({"optim": OLD["optim"] | {"lr": 0.2}}, [], [("optim.lr", 0.1, 0.2, "old value, from the checkpoint")]),
        ({"optim": OLD["optim"] | {"lr": 0.2}}, ["optim.lr"], [("optim.lr", 0.1, 0.2, "new value (resume_override)")]),
        ({"optim": OLD["optim"] | {"_target_": "Adam"}}, [], [("optim._target_", "SGD", "Adam", "new value")]),
        ({"optim": OLD["optim"] | {"betas": [0.9, 0.8]}}, [], [("optim.betas", [0.9, 0.9], [0.9, 0.8], "old value")]),
        (
            {"model": {"width": 9, "new": {"deep": 1}}},
            [],
            [("model.width", 8, 9, "new"), ("model.new.deep", None, 1, "new"), ("model.gone", True, None, "new")],
        ),
        ({"callbacks": {"ema": {"decay": 0.9}}}, [], [("callbacks.ema.decay", None, 0.9, "new value")]),
    ],
)  # fmt: skip
def test_what_changed_and_what_comes_of_it(change: Any, override: list[str], expected: list[tuple[Any, ...]]) -> None:
    found = changes(OLD, OLD | change, override)
    assert [(one.key, one.old, one.new) for one in found] == [one[:3] for one in expected]
    assert all(one.effect.startswith(told[3]) for one, told in zip(found, expected, strict=True))
