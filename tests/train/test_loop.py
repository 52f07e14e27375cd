"""The best checkpoint stays: its metric belongs to its weights, and what cannot be measured is said at the start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from runs import contents, evaluations, run, steps

from dcp_runner.train.callbacks import Callback, TrainerView

pytestmark = pytest.mark.timeout(120)
APART: dict[str, Any] = {"trainer__eval_every": 5, "checkpoint__every_steps": 2, "trainer__max_steps": 7}
"""Saves after steps 2, 4, 6 and 7; evaluations after 5 and 7."""


def kept(folder: Path) -> dict[int, dict[str, float]]:
    """Step -> metrics of the checkpoints that are there."""
    files = (folder / "checkpoints").glob("checkpoint-*/checkpoint_manifest.json")
    manifests = [json.loads(file.read_text()) for file in files]
    return {manifest["step"]: manifest["metrics"] for manifest in manifests}


def events(folder: Path, event: str) -> list[int]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines if line.get("event") == event]


class Worse(Callback):
    """Every evaluation is worse than the one before, so that the first checkpoint is the best one."""

    count = 0

    def on_evaluate(self, trainer: TrainerView, metrics: dict[str, float]) -> None:
        Worse.count += 1
        metrics["eval_loss"] = metrics["errors"] = float(Worse.count)


WORSE = {"worse": {"_target_": "test_loop.Worse"}}


def test_a_save_evaluates_first_where_the_best_are_kept(tmp_path: Path) -> None:
    """Once a step, and without a trace in the training."""
    plain, keeping = tmp_path / "plain", tmp_path / "keeping"
    assert run(plain, 1, **APART) == [0]
    assert run(keeping, 1, **APART, checkpoint__keep={"last": 1, "best": 2}, callbacks=WORSE) == [0]
    assert kept(keeping).keys() == {2, 4, 7} and [m["eval_loss"] for m in kept(keeping).values()].count(1.0) == 1
    assert list(evaluations(keeping)) == [2, 4, 5, 6, 7] and list(evaluations(plain)) == [5, 7]
    lines = [line for line in (keeping / "metrics.jsonl").read_text().splitlines() if '"eval_loss"' in line]
    assert len(lines) == 5 and events(keeping, "unmeasured") == []
    assert steps(keeping) == steps(plain)
    one, other = (contents(folder / "checkpoints" / "checkpoint-7") for folder in (plain, keeping))
    assert {name: data for name, data in one.items() if "callbacks" not in name}.items() <= other.items()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("keep", "options", "evaluated"),
    [
        ({"last": None, "best": 2}, {}, [5, 7]),
        ({"last": 1, "best": 0}, {}, [5, 7]),
        ({"last": 1, "best": 1, "metric": "loss"}, {}, [5, 7]),
        ({"last": 1, "best": 1}, {"checkpoint__eval_on_save": False}, [5, 7]),
        ({"last": 1, "best": 1}, {"trainer__eval_every": None}, []),
        ({"last": 1, "best": 1}, {"data__eval": None}, []),
    ],
)
def test_no_evaluation_without_need(
    tmp_path: Path, keep: dict[str, Any], options: dict[str, Any], evaluated: list[int]
) -> None:
    assert run(tmp_path, 1, **APART | options, checkpoint__keep=keep) == [0]
    assert list(evaluations(tmp_path)) == evaluated
    assert events(tmp_path, "unmeasured") == ([2, 4, 6] if "checkpoint__eval_on_save" in options else [])


def test_a_metric_of_a_callback(tmp_path: Path) -> None:
    keep = {"last": 1, "best": 1, "metric": "errors"}
    assert run(tmp_path, 1, **APART, checkpoint__keep=keep, callbacks=WORSE) == [0]
    assert kept(tmp_path).keys() == {2, 7} and kept(tmp_path)[2]["errors"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("spelt", ["run", "./run/", "x/../run", "link", "checkpoint"])
def test_what_the_run_resumed_from_is_kept_however_it_was_spelt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelt: str
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "run"
    assert run(folder, 1, trainer__max_steps=2) == [0]
    (tmp_path / "x").mkdir()
    (tmp_path / "link").symlink_to("run")
    (tmp_path / "checkpoint").symlink_to("run/checkpoints/checkpoint-2")
    more: dict[str, Any] = {"checkpoint__every_steps": 1, "checkpoint__keep": {"last": 1, "best": 0}}
    assert run(folder, 1, resume=spelt, trainer__max_steps=5, **more) == [0]
    assert kept(folder).keys() == {2, 5}


def test_a_metric_that_no_evaluation_records_ends_the_run_before_anything_is_deleted(tmp_path: Path) -> None:
    """Its callback adds others, which only an evaluation shows."""
    keep = {"last": 1, "best": 1, "metric": "accuracy"}
    assert run(tmp_path, 1, **APART, checkpoint__keep=keep, callbacks=WORSE) == [1]
    assert kept(tmp_path).keys() == set()
