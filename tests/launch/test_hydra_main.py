"""Somebody else's Hydra app: it finds our groups without naming a path, and its runs are ours in every respect."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import Command, script

pytestmark = pytest.mark.timeout(90)
APP = Path(__file__).parents[2] / "examples/hydra_app/app.py"


@pytest.mark.slow
def test_the_example_trains_on_two_ranks_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    for steps in (4, 6):
        made = Command(
            tmp_path, script(APP), ["name=run", f"trainer.max_steps={steps}", "logger.every_steps=1"]
        ).start()
        assert made.wait() == 0, made.err
    assert "step 4/4" in made.out and "step 5/6" in made.out
    run = tmp_path / "outputs/run"
    assert sorted(path.name for path in (run / "attempts").iterdir()) == ["1", "2"]
    assert sorted(path.name for path in (run / "checkpoints").glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-6"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outputs", "stderr", "stdout"]
    assert not list(run.glob("*.log")), "the ranks' own logs are enough"


def test_its_mistakes_are_told_as_ours(tmp_path: Path) -> None:
    made = Command(tmp_path, script(APP), ["model.widht=3", "optim.lrr=2", "parallel=dp"]).start()
    assert made.wait() == 2
    assert made.err.splitlines()[0] == "3 problems, nothing was started:"
    made = Command(tmp_path, script(APP), ["+model.depth=2", "optim.lr=1"], tag="2").start()
    assert made.wait() == 2
    assert "  * model.depth: Net takes no 'depth'" in made.err
