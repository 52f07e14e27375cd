"""Resuming is bit for bit: every loss, and every byte of the final checkpoint, as if nothing had happened."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runs import contents, evaluations, run, steps

pytestmark = pytest.mark.timeout(180)

SINGLE: dict[str, Any] = {}
CENTRAL: dict[str, Any] = {"data__dispatch": "central"}
INDEPENDENT: dict[str, Any] = {"data__dispatch": "independent"}
ACCUMULATE: dict[str, Any] = {"data__dispatch": "central", "trainer__accumulate": 2}
WORKERS: dict[str, Any] = {"data__dispatch": "independent", "data__workers": 2}

# An epoch has 3 steps; evaluations come after steps 2, 4, 6 and 8. A stop is asked for one step ahead.
END, MIDDLE_BEFORE_EVALUATION, AT_EVALUATION = 3, 5, 4


def same_ends(whole: Path, parted: Path, last: int = 8) -> None:
    assert steps(whole) == steps(parted)
    assert list(steps(whole)) == list(range(1, last + 1))
    assert evaluations(whole) == evaluations(parted)
    one, other = (contents(folder / "checkpoints" / f"checkpoint-{last}") for folder in (whole, parted))
    assert one.keys() == other.keys()
    assert [name for name in one if one[name] != other[name]] == []


def stop_after(step: int, ranks: list[int], folder: Path, signum: int) -> dict[str, Any]:
    """SIGTERM during a step: the flag is read at its end; SIGKILL after it: nothing more happens on that rank."""
    early = step - 1 if signum == signal.SIGTERM else step
    return {
        "callbacks": {
            "kill": {
                "_target_": "runs.KillAt",
                "step": early,
                "ranks": ranks,
                "mark": str(folder) + ".mark",
                "signum": signum,
            }
        }
    }


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, dict[str, Any]], Path]:
    """The folder of the uninterrupted run on so many ranks; each is made once."""
    made: dict[str, Path] = {}

    def folder_of(world: int, options: dict[str, Any]) -> Path:
        key = repr((world, sorted(options.items())))
        if key not in made:
            made[key] = tmp_path_factory.mktemp("whole")
            assert run(made[key], world, **options, checkpoint__every_steps=None) == [0] * world
        return made[key]

    return folder_of


Whole = Callable[[int, dict[str, Any]], Path]


def stopped_equals_whole(whole: Whole, parted: Path, world: int, cuts: list[int], options: dict[str, Any]) -> None:
    """SIGTERM to one rank: all save at the next step boundary and leave; the run goes on from there, to the next cut."""
    never = {"checkpoint__every_steps": None}
    for number, cut in enumerate(cuts, 1):
        stopping = stop_after(cut, [world - 1], parted.with_name(f"{parted.name}-{cut}"), signal.SIGTERM)
        assert run(parted, world, **options, **never, **stopping) == [128 + signal.SIGTERM] * world
        saved = {path.name for path in (parted / "checkpoints").glob("checkpoint-*")}
        assert saved == {f"checkpoint-{done}" for done in cuts[:number]}
    assert run(parted, world, **options, **never) == [0] * world
    same_ends(whole(world, options), parted)


def killed_equals_whole(whole: Whole, parted: Path, world: int, at: int, options: dict[str, Any]) -> None:
    """SIGKILL one rank at a step; the run goes on from the last commit and makes the lost steps again, alike."""
    often = {"checkpoint__every_steps": 2}
    codes = run(parted, world, **options, **often, **stop_after(at, [world - 1], parted, signal.SIGKILL))
    assert codes[-1] == -signal.SIGKILL and 0 not in codes
    assert run(parted, world, **options, **often) == [0] * world
    same_ends(whole(world, options), parted)


EVERY_WAY = pytest.mark.parametrize(
    ("world", "options"),
    [
        pytest.param(world, options, id=f"{world}-{name}")
        for name, options, worlds in (
            ("central", CENTRAL, (1, 2, 4)),
            ("independent", INDEPENDENT, (2, 4)),
            ("accumulate", ACCUMULATE, (1, 4)),
            ("workers", WORKERS, (1, 4)),
            ("central-workers", CENTRAL | {"data__workers": 1}, (2,)),
            ("bf16", CENTRAL | {"trainer__precision": "bf16"}, (4,)),
        )
        for world in worlds
    ],
)


def test_single(whole: Whole, tmp_path: Path) -> None:
    stopped_equals_whole(whole, tmp_path, 1, [END, 6], SINGLE)


def test_four_ranks(whole: Whole, tmp_path: Path) -> None:
    """Four, because the sum of two numbers does not depend on their order."""
    stopped_equals_whole(whole, tmp_path, 4, [END], CENTRAL)


def test_batch_norm(whole: Whole, tmp_path: Path) -> None:
    """Its statistics are rank 0's from the next forward on, and in a checkpoint already."""
    stopped_equals_whole(whole, tmp_path, 4, [END], INDEPENDENT | {"model": {"_target_": "runs.Normed"}})


def test_kill_at_a_random_step(whole: Whole, tmp_path: Path) -> None:
    at = random.randrange(3, 8)
    print(f"killed after step {at}")
    killed_equals_whole(whole, tmp_path, 1, at, INDEPENDENT)


@pytest.mark.slow
@EVERY_WAY
def test_every_way(whole: Whole, tmp_path: Path, world: int, options: dict[str, Any]) -> None:
    stopped_equals_whole(whole, tmp_path, world, [END, MIDDLE_BEFORE_EVALUATION], options)


@pytest.mark.slow
@pytest.mark.parametrize(("world", "options"), [(2, CENTRAL), (4, INDEPENDENT), (4, ACCUMULATE), (4, WORKERS)])
def test_at_an_evaluation(whole: Whole, tmp_path: Path, world: int, options: dict[str, Any]) -> None:
    stopped_equals_whole(whole, tmp_path, world, [AT_EVALUATION], options)


@pytest.mark.slow
@EVERY_WAY
def test_kill(whole: Whole, tmp_path: Path, world: int, options: dict[str, Any]) -> None:
    at = random.randrange(1, 8)
    print(f"killed after step {at}")
    killed_equals_whole(whole, tmp_path, world, at, options)


def test_going_back_retires_what_lies_above(tmp_path: Path) -> None:
    assert run(tmp_path, 1, checkpoint__every_steps=2) == [0]
    assert run(tmp_path, 1, checkpoint__every_steps=2, resume=4, trainer__max_steps=6) == [0]
    names = sorted(path.name for path in (tmp_path / "checkpoints").glob("*checkpoint-*"))
    assert names == ["checkpoint-2", "checkpoint-4", "checkpoint-6", "retired-2-checkpoint-8"], "the last retired stays"
    assert '"retired-2-checkpoint-6"' in (tmp_path / "metrics.jsonl").read_text()


def test_damaged_newest_is_passed_over_by_auto_and_refused_when_asked_for(tmp_path: Path) -> None:
    assert run(tmp_path, 1) == [0]
    weights = tmp_path / "checkpoints" / "checkpoint-8" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert run(tmp_path, 1, resume=8) == [1]
    assert run(tmp_path, 1, resume="latest") == [1]
    assert run(tmp_path, 1, resume="auto") == [0]
    resumed = [line for line in (tmp_path / "metrics.jsonl").read_text().splitlines() if '"resumed"' in line]
    assert len(resumed) == 1 and '"step": 4' in resumed[0]


@pytest.mark.parametrize(
    ("wish", "code"), [("auto", 0), ("never", 0), ("must", 1), ("latest", 1), ("best", 1), (4, 1), ("/nowhere", 1)]
)
def test_wishes_in_an_empty_folder(tmp_path: Path, wish: int | str, code: int) -> None:
    assert run(tmp_path, 1, resume=wish, trainer__max_steps=1) == [code]


def test_wishes_where_checkpoints_stand(tmp_path: Path) -> None:
    assert run(tmp_path / "a", 1) == [0]
    more: dict[str, Any] = {"trainer__max_steps": 9, "checkpoint__at_end": False, "checkpoint__every_steps": None}
    assert run(tmp_path / "a", 1, resume="never", **more) == [1]
    for wish in ("auto", "must", "latest", 8):
        assert run(tmp_path / "a", 1, resume=wish, **more) == [0]
    for folder in (tmp_path / "a", tmp_path / "a" / "checkpoints" / "checkpoint-8"):
        name = "b" if folder.name == "a" else "c"
        assert run(tmp_path / name, 1, resume=str(folder), **more) == [0]
        assert list(steps(tmp_path / name)) == [9]


def test_new_learning_rate_needs_the_override(tmp_path: Path) -> None:
    more: dict[str, Any] = {"schedule__decay": "constant", "schedule__warmup_steps": 0, "trainer__max_steps": 4}
    assert run(tmp_path, 1, **more) == [0]
    optim = {"_target_": "torch.optim.AdamW", "lr": 0.5, "betas": [0.9, 0.95], "weight_decay": 0.1}
    more |= {"optim": optim, "checkpoint__every_steps": None, "checkpoint__at_end": False}
    assert run(tmp_path, 1, **more | {"trainer__max_steps": 5}) == [0]
    assert steps(tmp_path)[5][2] == 0.01
    assert run(tmp_path, 1, **more | {"trainer__max_steps": 6, "resume_override": ["optim.lr"]}) == [0]
    assert steps(tmp_path)[6][2] == 0.5


def test_skipping_the_optimizer(tmp_path: Path) -> None:
    assert run(tmp_path, 1, trainer__max_steps=4) == [0]
    assert run(tmp_path, 1, trainer__max_steps=5, resume_skip=["optimizer"], checkpoint__every_steps=None) == [0]
    assert list(steps(tmp_path)) == [1, 2, 3, 4, 5]
    assert run(tmp_path, 1, trainer__max_steps=6, resume_skip=["optimiser"]) == [1]
