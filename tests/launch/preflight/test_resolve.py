"""How many ranks: the table of what a degree of -1 becomes."""

from __future__ import annotations

from math import prod
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcp_runner.checkpoint.topology import AXES
from dcp_runner.common.errors import ConfigError
from dcp_runner.config.schema import ResourcesConfig
from dcp_runner.launch.preflight.resolve import resolve_degrees
from dcp_runner.train.parallel.config import ParallelConfig

TASKS = {"nodes": 2, "tasks_per_node": 4}


@pytest.mark.parametrize(
    ("asked", "resources", "started", "gpus", "expected"),
    [
        ({}, {}, None, 0, {}),
        ({}, {}, None, 8, {}),
        ({"dp": 4}, {}, None, 8, {"dp": 4}),
        ({"dp": 4}, {}, 4, 0, {"dp": 4}),
        ({"dp": -1}, {}, 6, 8, {"dp": 6}),
        ({"dp": -1, "pp": 2}, TASKS, 6, 8, {"dp": 3, "pp": 2}),
        ({"dp": -1}, TASKS, None, 3, {"dp": 8}),
        ({"dp": -1, "tp": 2}, TASKS, None, 0, {"dp": 4, "tp": 2}),
        ({"dp": -1}, {"nodes": 2}, None, 0, {"dp": 2}),
        ({"dp": -1}, {}, None, 4, {"dp": 4}),
        ({"dp": -1, "pp": 2}, {}, None, 4, {"dp": 2, "pp": 2}),
        ({"dp": -1}, {}, None, 1, {"dp": 1}),
        ({"dp": -1}, {}, None, 0, {"dp": 2}),
        ({"dp": -1, "pp": 3}, {}, None, 0, {"dp": 2, "pp": 3}),
        ({"fsdp": -1}, {}, 1, 0, {"fsdp": 1}),
        ({"dp": -1}, {"nodes": 2, "gpus_per_node": 4}, None, 1, {"dp": 8}),
        ({"dp": 1, "pp": 2}, {"gpus_per_node": 1}, None, 0, {"pp": 2}),
        ({"dp": -1}, TASKS | {"gpus_per_node": 2}, None, 0, {"dp": 8}),
    ],
)
def test_the_table(
    asked: dict[str, int], resources: dict[str, int], started: int | None, gpus: int, expected: dict[str, int]
) -> None:
    found = resolve_degrees(ParallelConfig(**_any(asked)), ResourcesConfig(**_any(resources)), started, gpus)
    assert found.degrees == dict.fromkeys(AXES, 1) | expected


@pytest.mark.parametrize(
    ("asked", "resources", "started", "gpus", "told"),
    [
        ({}, {}, 4, 0, "a single rank does not fit 4 ranks (as started by torchrun or srun)"),
        ({"dp": 4}, {}, 6, 0, "dp 4 does not fit 6 ranks"),
        ({"dp": -1, "pp": 4}, {}, 6, 0, "dp -1"),
        ({"dp": 3}, TASKS, None, 0, "does not fit 8 ranks (resources.nodes x resources.tasks_per_node)"),
        ({"dp": -1, "pp": 2}, {}, None, 1, "does not fit 1 ranks (1 per GPU)"),
        ({"dp": -1, "tp": -1}, {}, 4, 0, "parallel.dp and parallel.tp: only one degree may be -1"),
        ({"dp": 0}, {}, None, 0, "parallel.dp: must be at least 1, or -1 for the remaining ranks (found 0)"),
    ],
)
def test_contradictions(
    asked: dict[str, int], resources: dict[str, int], started: int | None, gpus: int, told: str
) -> None:
    with pytest.raises(ConfigError) as error:
        resolve_degrees(ParallelConfig(**_any(asked)), ResourcesConfig(**_any(resources)), started, gpus)
    assert told in str(error.value)


def test_every_contradiction_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        resolve_degrees(ParallelConfig(dp=0, pp=-2, fsdp=-1, tp=-1), ResourcesConfig())
    assert len(error.value.problems) == 3


@given(st.lists(st.integers(1, 5), min_size=4, max_size=4), st.sampled_from(AXES))
def test_what_is_left_fills_the_world(sizes: list[int], left: str) -> None:
    full = dict(zip(AXES, sizes, strict=True))
    found = resolve_degrees(ParallelConfig(**_any(full | {left: -1})), ResourcesConfig(), prod(sizes))
    assert found.degrees == full
    assert found.world_size == prod(sizes)


def _any(values: dict[str, int]) -> dict[str, Any]:
    return dict(values)
