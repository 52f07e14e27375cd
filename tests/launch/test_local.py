"""Ranks that the program starts itself: who failed first, what the command answers, and that nobody is left behind."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from commands import Command, composed, gone, ours
from where import SUPPORT

from dcp_runner.config.schema import RunConfig
from dcp_runner.launch import local
from dcp_runner.launch.job import Job
from dcp_runner.launch.outcomes import RankExit

pytestmark = pytest.mark.timeout(90)


def command(folder: Path, entry: str, *overrides: str, ranks: int = 2, grace_s: float = local.GRACE_S) -> Command:
    """A run that needs no Hydra any more."""
    even = ("parallel=ddp", f"parallel.dp={ranks}", f"data.batch_size={4 * ranks}")
    return Command(folder, composed(entry, *even, *overrides), grace_s=grace_s).start()


def test_one_folder_for_all_ranks_and_one_attempt_for_each_start(tmp_path: Path) -> None:
    for attempt in (1, 2):
        made = Command(tmp_path, ours("meet"), ["parallel=ddp", "parallel.dp=4", "name=run"]).start()
        assert made.wait() == 0, made.err
        facts = [(tmp_path / f"outputs/run/fact-{rank}").read_text().split() for rank in range(4)]
        assert [fact[:5] for fact in facts] == [[str(r), "4", str(r), "4", str(attempt)] for r in range(4)]
        assert len({fact[5] for fact in facts}) == 1, "one digest"
        assert {fact[6] for fact in facts} == {str(tmp_path / "outputs/run")}
        assert [fact[7] for fact in facts] == ["0", "1", "2", "3"], "torchrun's variables"
    run = tmp_path / "outputs/run"
    assert os.readlink(run / ".hydra") == "attempts/2/.hydra"
    assert sorted(path.parent.name for path in run.rglob("config.yaml")) == [".hydra", ".hydra"]
    assert sorted(path.name for path in (run / ".hydra").iterdir()) == ["config.yaml", "hydra.yaml", "overrides.yaml"]
    assert (run / ".hydra/overrides.yaml").read_text().splitlines()[0] == "- parallel=ddp"
    assert sorted(path.name for path in (run / "logs").iterdir()) == [f"rank-0000{rank}.log" for rank in range(4)]
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["outputs"]


def test_two_nodes_may_stand_on_one_machine(tmp_path: Path) -> None:
    made = command(tmp_path, "meet", "resources.nodes=2", ranks=4)
    assert made.wait() == 0, made.err
    facts = [(tmp_path / f"outputs/run/fact-{rank}").read_text().split()[2:4] for rank in range(4)]
    assert facts == [["0", "2"], ["1", "2"], ["0", "2"], ["1", "2"]]
    assert "resources.nodes=2, but no scheduler has started this" in made.err


def test_a_rank_raises_while_the_others_wait(tmp_path: Path) -> None:
    made = command(tmp_path, "raises")
    assert made.wait() == 1
    lines = made.err.splitlines()
    assert lines[-1].startswith("FAILED: rank 1 (") and lines[-1].endswith("raised ValueError: boom")
    assert lines[-2] == f"log: {tmp_path}/outputs/run/logs/rank-00001.log"
    assert made.err.count("Traceback") == 1, "the first failure's, once"
    assert "Connection closed" not in made.err
    note = json.loads((tmp_path / "outputs/run/attempts/1/outcomes/rank-00001.json").read_text())
    assert (note["rank"], note["type"], note["message"]) == (1, "ValueError", "boom")
    assert "in raises" in note["traceback"]
    assert "ValueError: boom" in (tmp_path / "outputs/run/logs/rank-00001.log").read_text()


def test_an_error_that_says_it_all_is_shown_without_a_traceback(tmp_path: Path) -> None:
    made = command(tmp_path, "all_raise_the_same")
    assert made.wait() == 1
    assert "Traceback" not in made.err
    assert "FAILED: checkpoint phase 'write' failed" in made.err
    assert made.err.splitlines()[-1] == "  rank 2 on some-host: OSError: disk full"


def test_a_rank_is_killed_while_the_others_wait(tmp_path: Path) -> None:
    made = command(tmp_path, "killed_while_others_wait")
    assert made.wait() == 1
    assert made.err.splitlines()[-1].startswith(
        ("FAILED: rank 1 was killed by SIGKILL", "FAILED: rank 1 was terminated without")
    )
    assert "Traceback" not in made.err


@pytest.mark.slow  # elastic waits 30 s for the others
def test_a_rank_is_stopped_while_the_others_wait(tmp_path: Path) -> None:
    made = command(tmp_path, "stopped_while_others_wait", "parallel.timeout_s=2", ranks=3)
    assert made.wait() == 1
    last = made.err.splitlines()[-1]
    assert last.startswith("FAILED: rank 1 did not reach a collective"), made.err
    assert "Timed out waiting 2000ms" in last


@pytest.mark.slow
@pytest.mark.slow  # elastic waits 30 s for the others
def test_a_rank_is_killed_while_the_others_work(tmp_path: Path) -> None:
    made = command(tmp_path, "killed_while_others_work", ranks=3)
    assert made.wait() == 1
    assert made.err.splitlines()[-1].startswith("FAILED: rank 1 was killed by SIGKILL")
    assert "ended because of it: rank 0, 2" in made.err
    assert gone([int(path.read_text()) for path in tmp_path.glob("outputs/run/ready-?")])


def test_a_rank_leaves_without_a_word(tmp_path: Path) -> None:
    made = command(tmp_path, "leaves")
    assert made.wait() == 1
    assert made.err.splitlines()[-1] == "FAILED: rank 1 exited with code 7"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_stop_signal_is_passed_on_once_and_all_leave(tmp_path: Path, number: int, ranks: int) -> None:
    made = command(tmp_path, "work_until_asked", ranks=ranks)
    pids = made.ranks(ranks)
    made.send(number)
    assert made.wait() == 128 + number
    assert made.out.splitlines()[-1] == "saved"
    assert "Traceback" not in made.err and "FAILED" not in made.err
    assert gone(pids)


def test_a_second_stop_signal_ends_all_at_once(tmp_path: Path) -> None:
    made = command(tmp_path, "work")
    pids = made.ranks(2)
    made.send(signal.SIGINT)
    while "Stopping" not in made.err:
        pass
    made.send(signal.SIGINT)
    assert made.wait() == 130
    assert "Traceback" not in made.err and "FAILED" not in made.err
    assert gone(pids)


def test_no_rank_outlives_a_launcher_that_is_killed(tmp_path: Path) -> None:
    made = command(tmp_path, "work")
    pids = made.ranks(2)
    made.send(signal.SIGKILL)
    assert made.wait() == -signal.SIGKILL
    assert gone(pids)


@pytest.mark.slow
def test_a_sweep_goes_on_after_a_failed_job_and_then_fails(tmp_path: Path) -> None:
    made = Command(tmp_path, ours("raises"), ["-m", "parallel=ddp", "seed=0,1", "hydra.sweep.dir=sweep"]).start()
    assert made.wait() == 1
    assert made.err.count("FAILED: rank 1") == 2
    assert sorted(path.name for path in (tmp_path / "sweep").iterdir()) == [".sweep", "0", "1", "multirun.yaml"]
    assert (tmp_path / "sweep/1/attempts/1/.hydra/config.yaml").exists()


@pytest.mark.slow
def test_spawned_ranks_do_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a machine with CUDA does."""
    monkeypatch.setenv("PYTHONPATH", str(SUPPORT))
    (tmp_path / "logs").mkdir()
    (tmp_path / "attempts/1/outcomes").mkdir(parents=True)
    job = Job(entry="entries:meet", config=RunConfig(name="x"), config_hash="h", run_dir=str(tmp_path), attempt=1)
    ended = local.launch(job, 2, 2, start_method="spawn")
    assert sorted(ended.exits, key=lambda exit: exit.rank) == [RankExit(0, 0), RankExit(1, 0)]
    assert ended.exit_code == 0
    assert len(list(tmp_path.glob("fact-?"))) == 2
