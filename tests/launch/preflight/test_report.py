"""What a person types before anything runs: help, completion, mistakes, a configuration folder of one's own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from commands import Command, ours

pytestmark = pytest.mark.timeout(90)

NO_TORCH = """
import os, sys
from dcp_runner.app import main
os.environ["COMP_LINE"] = "dcp-runner parallel=dd"
os.environ["COMP_POINT"] = str(len(os.environ["COMP_LINE"]))
for arguments in ("run --help", "--cfg job --resolve", "-sc query=bash"):
    sys.argv = ["dcp_runner", *arguments.split()]
    try:
        main()
    except SystemExit as end:
        print("ended with", end.code)
    print("torch" in sys.modules, "after", arguments)
"""


def test_help_and_completion_do_not_import_torch(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", NO_TORCH], cwd=tmp_path, capture_output=True, text=True, check=True)
    lines = ended.stdout.splitlines()
    assert [line for line in lines if line.endswith(("run --help", "--resolve", "query=bash"))] == [
        "False after run --help",
        "False after --cfg job --resolve",
        "False after -sc query=bash",
    ]
    help_text = lines[: lines.index("False after run --help")]
    assert any(line.startswith("parallel: ") and "ddp" in line for line in help_text)
    assert any("torchrun --nproc-per-node" in line for line in help_text)
    assert "parallel=ddp" in ended.stdout.split(), "completion"
    assert list(tmp_path.iterdir()) == []


def test_all_mistakes_in_one_report_and_nothing_made(tmp_path: Path) -> None:
    keys = ["trainr.max_steps=1", "checkpoint.keep.lst=2", "save_steps=5", "--resume-from-checkpoint=x"]
    values = ["optim.lrr=1", "data.batch_size=7", "parallel=ddp"]
    made = Command(tmp_path, ours("meet"), [*keys, *values]).start()
    assert made.wait() == 2
    assert made.out == ""
    assert made.err.splitlines() == [
        "6 problems, nothing was started:",
        "  * --resume-from-checkpoint=x: no such flag; keys are given without dashes, as `resume=x`",
        "  * trainr.max_steps=1: no key `trainr.max_steps`; did you mean `trainer.max_steps`?",
        "  * checkpoint.keep.lst=2: no key `checkpoint.keep.lst`; did you mean `checkpoint.keep.last`?",
        "  * save_steps=5: no key `save_steps`; here it is `checkpoint.every_steps`",
        "  * data.batch_size=7: the global batch size must be divisible by dp * fsdp * accumulate = 2 * 1 * 1 = 2; try 6 or 8",
        "  * optim.lrr: AdamW takes no 'lrr'; did you mean `optim.lr`?",
    ]
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_a_mistake_in_any_job_of_a_sweep_starts_none(tmp_path: Path) -> None:
    made = Command(tmp_path, ours("meet"), ["-m", "parallel=ddp", "data.batch_size=8,7", "optim=adamw,sgd"]).start()
    assert made.wait() == 2
    assert made.err.count("  * data.batch_size=7") == 1
    assert not (tmp_path / "multirun").exists()


@pytest.mark.slow
def test_a_configuration_folder_of_ones_own(tmp_path: Path) -> None:
    """New options for our groups, a file of one's own for this machine, and a broken one is told."""
    own = tmp_path / "own"
    for name, text in {
        "experiment/mine.yaml": "# @package _global_\ndefaults: [override /parallel: ddp]\ntrainer: {max_steps: 7}\n",
        "optim/mine.yaml": "_target_: torch.optim.SGD\nlr: 0.5\n",
        "local/default.yaml": "# @package _global_\nlogger: {progress: false}\n",
        "experiment/broken.yaml": "# @package _global_\ntrainer: {max_step: 7}\n",
    }.items():
        (own / name).parent.mkdir(parents=True, exist_ok=True)
        (own / name).write_text(text)
    made = Command(tmp_path, ours("meet"), ["--config-dir", "own", "experiment=mine", "optim=mine", "name=run"]).start()
    assert made.wait() == 0, made.err
    written = (tmp_path / "outputs/run/.hydra/config.yaml").read_text()
    assert all(text in written for text in ("max_steps: 7", "lr: 0.5", "progress: false", "dp: 2"))
    made = Command(tmp_path, ours("meet"), ["--config-dir", "own", "experiment=broken"], tag="2").start()
    assert made.wait() == 2
    assert "max_step" in made.err and "experiment" in made.err


def test_a_dry_run_leaves_nothing_behind(tmp_path: Path) -> None:
    made = Command(tmp_path, ours("meet"), ["parallel=ddp", "parallel.dp=8", "dry_run=true"]).start()
    assert made.wait() == 0, made.err
    assert "replicated" in made.out
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


@pytest.mark.parametrize(
    "arguments", [["hydra.run.dir='${nope}'"], ["-m", "hydra.sweep.subdir='${nope}'"]], ids=" ".join
)
def test_a_folder_that_cannot_be_resolved_is_reported(arguments: list[str], tmp_path: Path) -> None:
    made = Command(tmp_path, ours("meet"), arguments).start()
    assert made.wait() == 2
    assert "nope" in made.err and "Traceback" not in made.err
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []
