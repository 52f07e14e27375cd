"""What the pipeline strategy refuses before any rank is started."""

from __future__ import annotations

from typing import Any

import pytest
from split_models import model

from dcp_runner.train.parallel.config import SplitPlanConfig
from dcp_runner.train.parallel.pipeline import Pipeline
from dcp_runner.train.parallel.strategy import PlannedRun


def problems(degree: int = 2, samples: int = 4, **options: Any) -> list[str]:
    degrees = {"pp": degree, "dp": 1, "fsdp": 1, "tp": 1}
    return [*Pipeline(**options).validate(PlannedRun(degrees, samples, model, SplitPlanConfig()))]


def test_axes_are_those_of_the_stage_too() -> None:
    assert Pipeline().axes == ("pp",)
    assert Pipeline(stage="dcp_runner.train.parallel.fsdp.FullyShard").axes == ("pp", "dp", "fsdp")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, []),
        ({"schedule": "interleaved"}, []),
        ({"schedule": "2f2b"}, ["parallel.options.schedule=2f2b: must be one of gpipe, 1f1b, interleaved"]),
        ({"stages_per_rank": 2}, ["parallel.options.stages_per_rank=2: more than 1 needs schedule=interleaved"]),
        ({"microbatches": 1}, ["parallel.options.microbatches=1: must be at least parallel.pp=2"]),
        (
            {"microbatches": 3, "samples": 3, "schedule": "interleaved"},
            ["parallel.options.microbatches=3: must be a multiple of parallel.pp=2"],
        ),
        (
            {"microbatches": 3},
            [
                "parallel.options.microbatches=3: must divide the 4 samples of a rank "
                "(data.batch_size / dp / fsdp / trainer.accumulate)"
            ],
        ),
        (
            {"schedule": "interleaved", "stages_per_rank": 3},
            ["parallel.pp: 6 stages, but GPT has only 5 layers in 'blocks'"],
        ),
        ({"degree": 1, "schedule": "interleaved", "stages_per_rank": 9}, []),
    ],
)
def test_what_does_not_fit_is_named(options: dict[str, Any], expected: list[str]) -> None:
    assert problems(**options) == expected


def test_problems_of_the_stage_are_reported_too() -> None:
    (problem,) = problems(stage="test_pipeline.Refusing")
    assert problem == "stage refused"


class Refusing(Pipeline):
    def validate(self, planned: PlannedRun) -> Any:
        return iter(["stage refused"])
