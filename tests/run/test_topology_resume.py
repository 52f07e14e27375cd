"""Every topology resumes bit for bit; and a run that goes on under another topology goes on along the same curve."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from runs import contents, run, steps
from topologies import ALL, BASE, DDP, MAIN, topology, world_of

pytestmark = pytest.mark.timeout(180)

SAVING = BASE | {"trainer__max_steps": 4, "trainer__eval_every": None, "checkpoint__at_end": True}
DROPOUT = {"model": BASE["model"] | {"dropout": 0.1}}
FEW = ["dp_pp-2x2"]


def stop_at(step: int, folder: Path) -> dict[str, Any]:
    """SIGTERM to one rank during this step: all save at its end and leave."""
    mark = f"{folder}.mark"
    kill = {"_target_": "runs.KillAt", "step": step - 1, "ranks": [0], "mark": mark, "signum": signal.SIGTERM}
    return {"callbacks": {"kill": kill}}


def same_ends(whole: Path, parted: Path) -> None:
    made, made_again = steps(whole), steps(parted)
    assert list(made) == [1, 2, 3, 4] and 4 in made_again
    assert made_again == {step: made[step] for step in made_again}
    one, other = (contents(folder / "checkpoints" / "checkpoint-4") for folder in (whole, parted))
    assert one.keys() == other.keys() and [name for name in one if one[name] != other[name]] == []


@pytest.mark.parametrize("name", FEW)
def test_resume_after_a_stop(name: str, tmp_path: Path) -> None:
    parallel, world = ALL[name], world_of(ALL[name])
    options = SAVING | DROPOUT
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    assert run(whole, world, parallel=parallel, **options) == [0] * world
    stopped = run(parted, world, parallel=parallel, **options, **stop_at(2, parted))
    assert stopped == [128 + signal.SIGTERM] * world
    assert run(parted, world, parallel=parallel, **options) == [0] * world
    same_ends(whole, parted)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*(name for name in MAIN if name not in FEW), "accelerate-2", "dp_pp_tp-2x2x2"])
def test_resume_of_every_topology(name: str, tmp_path: Path) -> None:
    """New processes go on from the checkpoint in the middle of a run that goes on itself."""
    parallel, world = ALL[name], world_of(ALL[name])
    options = SAVING | DROPOUT | {"checkpoint__every_steps": 2}
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    assert run(whole, world, parallel=parallel, **options) == [0] * world
    middle = str(whole / "checkpoints" / "checkpoint-2")
    assert run(parted, world, parallel=parallel, **options, resume=middle) == [0] * world
    same_ends(whole, parted)


def goes_on(names: list[str], tmp_path: Path, **more: Any) -> None:
    """Two steps under each topology in turn; the losses are those of a run that never changed."""
    topologies = ALL | {"ddp-3": topology(DDP, dp=3)}
    last = 2 * len(names)
    always = SAVING | {"schedule__decay": "constant"} | more
    for number, name in enumerate(names, 1):
        world = 1 if name == "single" else world_of(topologies[name])
        options = always | {"trainer__max_steps": 2 * number}
        assert run(tmp_path / "changing", world, parallel=topologies.get(name), **options) == [0] * world
    whole = tmp_path / "whole"
    assert run(whole, 1, **always | {"trainer__max_steps": last}) == [0]
    expected, found = steps(whole), steps(tmp_path / "changing")
    assert list(found) == list(expected) == list(range(1, last + 1))
    for step in expected:
        assert found[step] == pytest.approx(expected[step], rel=2e-4), f"step {step}"


def test_a_change_of_topology_goes_on_along_the_curve(tmp_path: Path) -> None:
    goes_on(["single", "dp_pp-2x2", "fsdp-2"], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("dispatch", ["central", "independent"])
def test_other_numbers_of_ranks_see_the_samples_that_one_would_have_seen(dispatch: str, tmp_path: Path) -> None:
    """4, then 2, then 3 ranks; an epoch ends on the way."""
    data = {"_target_": "dcp_runner.data.synthetic.RandomTokens", "length": 42, "context": 16, "vocab": 256}
    more = {"data__batch_size": 12, "data__dispatch": dispatch, "data__train": data}
    goes_on(["ddp-4", "ddp-2", "ddp-3"], tmp_path, **more)


@pytest.mark.slow
def test_through_every_topology(tmp_path: Path) -> None:
    goes_on(["single", *MAIN, "dp_pp_tp-2x2x2"], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fsdp-2", "hsdp-2x2"])
def test_statistics_of_batches_are_those_of_the_first_rank_as_under_ddp(name: str, tmp_path: Path) -> None:
    """BatchNorm's buffers, which every rank updates from its own samples: saved, resumed, and taken to one rank."""
    parallel, world = ALL[name], world_of(ALL[name])
    options = {"model": {"_target_": "runs.Normed"}, "trainer__max_steps": 4, "checkpoint__every_steps": 2}
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    assert run(whole, world, parallel=parallel, **options) == [0] * world
    middle = str(whole / "checkpoints" / "checkpoint-2")
    assert run(parted, world, parallel=parallel, **options, resume=middle) == [0] * world
    same_ends(whole, parted)
    assert run(whole, 1, **options | {"trainer__max_steps": 6}) == [0]
