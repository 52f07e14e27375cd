"""The nearest known name."""

from __future__ import annotations

import pytest

from dcp_runner.common.suggest import HINTED, did_you_mean, hint, hints


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("stauts", ["status", "wait"], "; did you mean `status`?"),
        ("STATUS", ["status", "statue"], "; did you mean `status`?"),
        ("xyz", ["status"], ""),
        ("x", [], ""),
    ],
)
def test_did_you_mean(name: str, known: list[str], expected: str) -> None:
    assert did_you_mean(name, known) == expected


def test_the_parent_is_part_of_the_answer() -> None:
    assert did_you_mean("lrr", ["lr"], below="optim.") == "; did you mean `optim.lr`?"


def test_only_the_first_names_have_a_hint() -> None:
    assert hint("emaa", ["ema", 3]) == "emaa (near: ema)" and hint("x", ["ema"]) == "x"
    names = [f"emaa{number}" for number in range(HINTED + 1)]
    assert hints(names, ["ema"]) == [*(f"{name} (near: ema)" for name in names[:HINTED]), names[-1]]
