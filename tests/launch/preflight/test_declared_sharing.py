"""A sharing that `auto` would decide anyway, declared: the check of it must leave nothing in the process from which the
ranks are forked, so the checkpoint is the same to the last byte, and loads under another topology.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import Command

from dcp_runner.app import main

pytestmark = [pytest.mark.slow, pytest.mark.timeout(150)]

TINY = ["debug=tiny", "model.width=16", "trainer.eval_every=null", "trainer.device=cpu", "logger.progress=false"]
AXES = {"ddp": "dp", "fsdp": "fsdp", "tp": "tp", "hsdp": "dp fsdp", "dp_tp": "dp tp", "fsdp_tp": "fsdp tp"}
AXES |= {"pipeline": "pp", "dp_pp": "pp dp", "dp_pp_tp": "pp dp tp"}
ARGUMENTS = {
    name: [f"parallel={name}", *(f"parallel.{axis}=2" for axis in axes.split())] for name, axes in AXES.items()
}
DECLARED = {"ddp": "model=replicated", "hsdp": "model=per_group:dp", "dp_pp_tp": "optimizer=per_group:dp"}
"""Where it is not rng=per_rank."""
WITH_ANOTHER_LOAD = ("fsdp", "dp_tp")


def train(folder: Path, name: str, steps: int, *overrides: str) -> Command:
    arguments = [*overrides, *TINY, f"name={name}", f"trainer.max_steps={steps}"]
    made = Command(folder, main, arguments, tag=f"-{name}-{steps}").start()
    assert made.wait() == 0, made.err
    return made


def assert_same_bytes(one: Path, other: Path) -> None:
    first, second = bytes_of(one / "checkpoint-1"), bytes_of(other / "checkpoint-1")
    assert {name for name in first.keys() | second.keys() if first.get(name) != second.get(name)} == set()


def bytes_of(checkpoint: Path) -> dict[str, bytes]:
    files = (path for path in checkpoint.rglob("*") if path.is_file() and path.name != "checkpoint_manifest.json")
    return {path.relative_to(checkpoint).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("topology", AXES)
def test_what_auto_decides_anyway(topology: str, tmp_path: Path) -> None:
    cut = ARGUMENTS[topology]
    train(tmp_path, "auto", 1, *cut)
    train(tmp_path, "declared", 1, *cut, f"sharing.{DECLARED.get(topology, 'rng=per_rank')}")
    assert_same_bytes(tmp_path / "outputs/auto/checkpoints", tmp_path / "outputs/declared/checkpoints")
    if topology in WITH_ANOTHER_LOAD:
        assert "RESUMED step=1" in train(tmp_path, "declared", 2, "parallel=single").out


@pytest.mark.parametrize("launcher", ["basic", "dcp_local"])
def test_in_a_sweep_too(launcher: str, tmp_path: Path) -> None:
    train(tmp_path, "auto", 1, *ARGUMENTS["fsdp"])
    sweep = ["-m", f"hydra/launcher={launcher}", "hydra.sweep.dir=s", "sharing.rng=auto,per_rank"]
    own = ["checkpoint.root='ck/${hydra:job.num}'"]
    train(tmp_path, "unused", 1, *sweep, *own, *ARGUMENTS["fsdp"])
    assert_same_bytes(tmp_path / "outputs/auto/checkpoints", tmp_path / "ck/0")
    assert_same_bytes(tmp_path / "outputs/auto/checkpoints", tmp_path / "ck/1")
