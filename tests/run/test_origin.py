"""Where a run begins, each time that it is started; and the start that has nothing to train."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import runs
from runs import contents, run, steps

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

OFTEN: dict[str, Any] = {"checkpoint__every_steps": 2}


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps, with checkpoints of 2 and 4. Not to be changed."""
    folder = tmp_path_factory.mktemp("other") / "source"
    assert run(folder, 1, trainer__max_steps=4, **OFTEN) == [0]
    return folder


@pytest.fixture
def source(other: Path, tmp_path: Path) -> Path:
    """The same, copied."""
    return shutil.copytree(other, tmp_path / "source", symlinks=True)


def resumed(folder: Path) -> list[tuple[int, str]]:
    """Step and place of every resume."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["source"]) for line in lines if line.get("event") == "resumed"]


def checkpoints(folder: Path) -> list[str]:
    """Those of a run, and the claims of them."""
    return sorted(path.name for path in (folder / "checkpoints").glob("*") if path.name != "latest")


def own(folder: Path, step: int) -> tuple[int, str]:
    return step, str(folder / "checkpoints" / f"checkpoint-{step}")


# -- resume=PATH -------------------------------------------------------------------------------------------------------


def test_the_same_command_goes_on_from_what_it_has_made(source: Path, tmp_path: Path) -> None:
    """It does not leave out, or draw anew, once more."""
    here, whole = tmp_path / "here", tmp_path / "whole"
    begin: dict[str, Any] = {"resume": str(source), "resume_skip": ["optimizer"], "resume_rng": "reseed", **OFTEN}
    assert run(whole, 1, **begin) == [0]
    for last in (6, 8):
        assert run(here, 1, trainer__max_steps=last, **begin) == [0]
    assert resumed(here) == [own(source, 4), own(here, 6)]
    assert checkpoints(here) == [".owner-2", "checkpoint-6", "checkpoint-8"], "nothing is retired"
    assert steps(here)[7][:2] != steps(whole)[7][:2], "the schedule of a run of 6 steps ends earlier"
    constant: dict[str, Any] = {"schedule__decay": "constant", **begin}
    for folder, lasts in ((tmp_path / "a", (8,)), (tmp_path / "b", (6, 8))):
        for last in lasts:
            assert run(folder, 1, trainer__max_steps=last, **constant) == [0]
    one, two = (contents(tmp_path / name / "checkpoints/checkpoint-8") for name in "ab")
    assert one == two, "bit for bit"


def spelt(source: Path, how: str) -> str:
    """The beginning as somebody else would give it."""
    if how == "a link":
        (source.parent / "link").symlink_to(source)
        return str(source.parent / "link")
    if how == "moved":
        return str(source.rename(source.parent / "moved"))
    if how == "removed":
        shutil.rmtree(source)
    if how == "trained on":
        assert run(source, 1, trainer__max_steps=6, **OFTEN) == [0]
    if how == "trained on and moved":
        assert run(source, 1, trainer__max_steps=6, **OFTEN) == [0]
        return str(source.rename(source.parent / "moved"))
    return {
        "its checkpoints": f"{source}/checkpoints",
        "its checkpoint": f"{source}/checkpoints/checkpoint-4",
        "relative": os.path.relpath(source) + "/",
    }.get(how, str(source))


@pytest.mark.parametrize(
    "how",
    [
        "a link", "moved", "removed", "trained on", "trained on and moved", "its checkpoints", "its checkpoint", "relative",
    ],
)  # fmt: skip
def test_the_beginning_is_known_however_it_is_spelt(how: str, source: Path, tmp_path: Path) -> None:
    here = tmp_path / "here"
    assert run(here, 1, trainer__max_steps=5, resume=str(source)) == [0]
    assert run(here, 1, trainer__max_steps=6, resume=spelt(source, how)) == [0]
    assert resumed(here)[1:] == [own(here, 5)]


def test_another_beginning_is_refused(source: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    here, fresh = tmp_path / "here", tmp_path / "fresh"
    assert run(here, 1, trainer__max_steps=5, resume=str(source)) == [0]
    assert run(fresh, 1, trainer__max_steps=5) == [0]
    before = checkpoints(here), checkpoints(fresh)
    capfd.readouterr()
    earlier = source / "checkpoints" / "checkpoint-2"
    assert run(here, 1, trainer__max_steps=9, resume=str(earlier)) == [1]
    told = capfd.readouterr().err
    assert str(earlier) in told and f"started from {source}" in told and "name=" in told and "resume=auto" in told
    assert run(fresh, 1, trainer__max_steps=9, resume=str(source)) == [1]
    told = capfd.readouterr().err
    assert str(source) in told and "started fresh" in told and "name=" in told
    assert (checkpoints(here), checkpoints(fresh)) == before, "nothing is claimed or retired"
    assert run(here, 1, trainer__max_steps=6, resume="auto") == [0], "the remedy"
    assert run(here, 1, trainer__max_steps=7, resume=str(source)) == [0], "and it is still where the run began"
    assert resumed(here)[1:] == [own(here, 5), own(here, 6)]


def test_own_checkpoints_by_path_step_or_name_mean_what_they_say_each_time(source: Path) -> None:
    """Here to go back is what is asked for."""
    for wish in (str(source / "checkpoints" / "checkpoint-2"), 2):
        for _ in range(2):
            assert run(source, 1, trainer__max_steps=5, resume=wish) == [0]
    for wish in ("latest", str(source)):
        assert run(source, 1, trainer__max_steps=6 + (wish != "latest"), resume=wish) == [0]
    assert [step for step, _ in resumed(source)] == [2, 2, 2, 2, 5, 6]


def test_a_start_killed_before_its_first_save_begins_again(source: Path, tmp_path: Path) -> None:
    here = tmp_path / "here"
    begin: dict[str, Any] = {"resume": str(source), "resume_skip": ["optimizer"], "resume_rng": "reseed", **OFTEN}
    kill = {"kill": {"_target_": "runs.KillAt", "step": 5, "ranks": [0], "mark": f"{here}.mark"}}
    assert run(here, 1, trainer__max_steps=6, callbacks=kill, **begin) == [-signal.SIGKILL]
    assert run(here, 1, trainer__max_steps=6, callbacks=kill, **begin) == [0]
    assert resumed(here) == [own(source, 4)] * 2
    assert run(tmp_path / "whole", 1, trainer__max_steps=6, **begin) == [0]
    assert steps(here) == steps(tmp_path / "whole")


@pytest.mark.parametrize(("wish", "begun"), [("never", 0), ("best", 2), ("must", 4), (2, 2), ("PATH", 4)])
def test_another_start_of_a_job_goes_on_once_it_has_saved(
    wish: int | str, begun: int, source: Path, tmp_path: Path
) -> None:
    """Before that it begins as it was told, also where older checkpoints stand."""
    here = tmp_path / "here" if wish in ("never", "PATH") else source
    kills: dict[str, Any] = {
        f"kill{step}": {"_target_": "runs.KillAt", "step": step, "ranks": [0], "mark": f"{tmp_path}/mark-{step}"}
        for step in (begun + 1, 6)
    }
    begin: dict[str, Any] = {
        "resume": str(source) if wish == "PATH" else wish,
        "resume_skip": ["optimizer"] if begun else [],
        "trainer__max_steps": 7,
        "checkpoint__every_steps": 5,
        "callbacks": kills,
    }
    assert run(here, 1, **begin, context={"job": "7"}) == [-signal.SIGKILL]
    assert run(here, 1, **begin, context={"job": "7", "again": True}) == [-signal.SIGKILL]
    assert run(here, 1, **begin, context={"job": "7", "again": True}) == [0]
    assert [step for step, _ in resumed(here)] == [*[begun] * (2 if begun else 0), 5]


# -- nothing to train --------------------------------------------------------------------------------------------------


def snapshot(folder: Path) -> dict[str, int]:
    return {str(path): path.lstat().st_mtime_ns for path in (folder, *folder.rglob("*"))}


@pytest.mark.parametrize("world", [1, 2])
def test_where_max_steps_is_reached_nothing_is_claimed_or_retired(world: int, source: Path, tmp_path: Path) -> None:
    before = snapshot(source / "checkpoints"), (source / "metrics.jsonl").read_text()
    for wish, last in (("auto", 4), ("auto", 1), ("must", 4), ("latest", 3), ("best", 2), (2, 2), (2, 1)):
        assert run(source, world, resume=wish, trainer__max_steps=last) == [0] * world
        assert (snapshot(source / "checkpoints"), (source / "metrics.jsonl").read_text()) == before, (wish, last)
    here = tmp_path / "here"
    assert run(here, world, resume=str(source), trainer__max_steps=4) == [0] * world
    assert not (here / "checkpoints").exists() and not (here / "metrics.jsonl").exists()
    assert run(tmp_path / "fresh", world, trainer__max_steps=0) == [0] * world
    assert not (tmp_path / "fresh" / "checkpoints").exists()


def test_a_newest_one_that_is_damaged_is_passed_over_and_trained_again(source: Path) -> None:
    weights = source / "checkpoints" / "checkpoint-4" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert run(source, 1, trainer__max_steps=4, **OFTEN) == [0]
    assert resumed(source) == [own(source, 2)]
    assert checkpoints(source) == [".owner-2", "checkpoint-2", "checkpoint-4", "retired-2-checkpoint-4"]


# -- killed anywhere ---------------------------------------------------------------------------------------------------

WRITING = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.listdir")


def killed_at(number: int, folder: Path, train: Callable[..., None]) -> Callable[..., None]:
    """`train`, whose process dies before the n-th change that it makes below the folder, from its claim on."""

    def until_killed(*arguments: Any) -> None:
        count = 0

        def hook(event: str, about: tuple[Any, ...]) -> None:
            nonlocal count
            named = [str(one) for one in about[:2]]
            if event not in WRITING or not any(str(folder) in one for one in named) or "/logs/" in named[0]:
                return
            count += event != "open" or named[1] not in ("r", "rb", "None")
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        train(*arguments)

    return until_killed


def test_killed_at_any_operation_of_a_beginning_the_same_command_goes_on(
    other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Claim, identity, the first save with the beginning that it records."""
    train = runs.train
    begin: dict[str, Any] = {"resume": str(other), "resume_rng": "reseed", "schedule__decay": "constant"}
    assert run(tmp_path / "whole", 1, trainer__max_steps=6, **begin) == [0]
    codes = []
    for number in [*range(1, 20), *range(20, 200, 7)]:
        here = tmp_path / str(number)
        monkeypatch.setattr(runs, "train", killed_at(number, here, train))
        codes += run(here, 1, trainer__max_steps=5, **begin)
        monkeypatch.setattr(runs, "train", train)
        assert run(here, 1, trainer__max_steps=6, **begin) == [0], number
        assert contents(here / "checkpoints/checkpoint-6") == contents(tmp_path / "whole/checkpoints/checkpoint-6")
        hidden = [path.name for path in (here / "checkpoints").iterdir() if path.name.startswith(".")]
        assert len(hidden) == 1 and hidden[0].startswith(".owner-"), (number, hidden)
        if codes[-1] == 0:
            break
    assert codes[-1] == 0 and set(codes[:-1]) == {-signal.SIGKILL} and len(codes) > 20
