"""One start composes, types and checks its configuration once, and builds at most one model before its ranks."""

from __future__ import annotations

import socket
from collections import Counter
from pathlib import Path

import pytest
from commands import Command, ours
from composing import composed
from counting import FILE, counted, events

from dcp_runner.common.errors import ConfigError
from dcp_runner.config.convert import config_hash
from dcp_runner.launch.preflight.checks import check, resolve_here, resolve_run

pytestmark = pytest.mark.timeout(120)

COUNTED = ["model=gpt_tiny", "model._target_=counting.CountedModel", "trainer.device=cpu"]
BUILDS = [*COUNTED, "sharing.rng=per_rank", "resume_override=[optim.lr]"]
"""The strategy, an option of the optimizer and a declared sharing all ask for the model."""
ONCE = Counter({"composition": 1, "typing": 1, "check": 1, "target check": 1})


def start(folder: Path, *arguments: str, tag: str = "", **environment: str) -> Command:
    environment |= {FILE: str(folder / f"events{tag}")}
    return Command(folder, counted(ours("meet")), [*arguments], environment, tag=tag).start()


def done(command: Command, tag: str = "") -> tuple[Counter[str], list[Counter[str]]]:
    """What the command's own process did, and what its children did."""
    assert command.wait() == 0, command.err
    assert command.process is not None and command.process.pid
    found = events(command.folder / f"events{tag}")
    return found.pop(command.process.pid, Counter()), list(found.values())


@pytest.mark.slow
def test_one_rank_in_this_process(tmp_path: Path) -> None:
    assert done(start(tmp_path, *BUILDS)) == (ONCE, [Counter(model=1)])


@pytest.mark.slow
def test_nothing_is_built_where_nobody_asks(tmp_path: Path) -> None:
    assert done(start(tmp_path, *COUNTED)) == (ONCE, [])


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["ddp", "tp", "pipeline"])
def test_two_ranks_that_are_forked(topology: str, tmp_path: Path) -> None:
    axis = {"ddp": "dp", "tp": "tp", "pipeline": "pp"}[topology]
    assert done(start(tmp_path, *BUILDS, f"parallel={topology}", f"parallel.{axis}=2")) == (ONCE, [Counter(model=1)])


@pytest.mark.slow
def test_a_dry_run(tmp_path: Path) -> None:
    command = start(tmp_path, *BUILDS, "parallel=tp", "parallel.tp=2", "dry_run=true")
    assert done(command) == (ONCE, [Counter(model=1)])
    assert "per_rank" in command.out


@pytest.mark.slow
def test_ranks_that_others_have_started(tmp_path: Path) -> None:
    """Rank 0 composes and checks; the other one types what it is given, and compares."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
    step = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "GLOO_SOCKET_IFNAME": "lo",
        "SLURM_NODEID": "0",
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_TASKS_PER_NODE": "2",
    }
    ranks = [
        start(tmp_path, *BUILDS, "parallel=ddp", tag=rank, **step, SLURM_PROCID=rank, SLURM_LOCALID=rank)
        for rank in "01"
    ]
    assert [done(command, tag) for command, tag in zip(ranks, "01", strict=True)] == [
        (ONCE, [Counter(model=1)]),
        (Counter(typing=1), []),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("swept", ["seed=1,2", "optim=adamw,sgd"])
def test_a_sweep(swept: str, tmp_path: Path) -> None:
    """One of each a job; and one composition for the sweep itself."""
    command = start(tmp_path, "-m", *BUILDS, swept, "hydra.sweep.dir=s")
    own, children = done(command)
    assert own == Counter({event: 2 for event in ONCE}) | Counter(composition=own["composition"])
    assert own["composition"] <= 3
    models = [child.pop("model") for child in children if "model" in child]
    assert models == [1, 1]
    assert not any(children), "the ranks type and check nothing"


def test_the_same_question_is_answered_once_and_another_one_anew(tmp_path: Path) -> None:
    cfg = composed("name=x", "trainer.device=cpu")
    first = resolve_run(cfg, None, tmp_path)
    assert resolve_run(cfg.copy(), None, tmp_path) is first
    assert (first.run_dir, first.plan, first.config_hash) == (tmp_path, None, config_hash(first.config))
    assert resolve_run(cfg, None, tmp_path / "other").run_dir == tmp_path / "other"
    cfg.seed = 5
    assert resolve_run(cfg, None, tmp_path).config.seed == 5
    cfg.trainer.max_steps = 0
    assert check(cfg) == ["trainer.max_steps: must be at least 1 (found 0)"]


def test_relative_paths_are_looked_up_where_the_program_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here/old").mkdir(parents=True)
    cfg = composed("name=x", "trainer.device=cpu", "resume=old")
    monkeypatch.chdir(tmp_path / "here")
    assert resolve_run(cfg, None, tmp_path).config.resume == "old"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="resume=old"):
        resolve_run(cfg, None, tmp_path)


def test_a_refused_run_leaves_no_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a/run").mkdir(parents=True)
    cfg = composed("name=x", "trainer.device=cpu", "verify_resume=2")
    with pytest.raises(ConfigError, match="verify_resume: it starts its own ranks"):
        resolve_here(cfg, None, tmp_path / "a/run", in_sweep=True)
    assert list(tmp_path.iterdir()) == []
