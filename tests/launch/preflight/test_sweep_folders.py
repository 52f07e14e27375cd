"""Jobs of a sweep that would write into one folder are found from the command line alone, and refused, whoever runs them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from commands import Command, ours
from composing import kept_loader
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf

from dcp_runner.launch.preflight.compose_cache import ComposeOnce
from dcp_runner.launch.preflight.sweep_folders import JobFolder, changed_jobs, job_folders, shared_folders

GO_ON = "where one would resume from the checkpoints of the other"


def told(*overrides: str) -> list[str]:
    loader = ComposeOnce(kept_loader().get_search_path())
    sweep = loader.load_configuration("config", ["model=gpt_tiny", *overrides], RunMode.MULTIRUN)
    return [*shared_folders([*job_folders(loader, sweep)])]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    return tmp_path


SHARED = {
    "one root": (["checkpoint.root=ck"], "checkpoint.root: ", "ck"),
    "one root through other groups": (["checkpoint.root=ck", "optim=adamw,sgd"], "checkpoint.root: ", "ck"),
    "one subdir": (["hydra.sweep.subdir=x", "hydra.sweep.dir=s"], "hydra.sweep.subdir: ", "s/x"),
    "a subdir by what is not swept": (["hydra.sweep.subdir='${model.width}'", "hydra.sweep.dir=s"], "hydra.sweep", "s/32"),
    "one absolute subdir": (["hydra.sweep.subdir=/elsewhere/x", "hydra.sweep.dir='s/${seed}'"], "hydra.sweep.subdir", "/elsewhere/x"),
    "a link": (["checkpoint.root=real/ck,./link/../link/ck"], "checkpoint.root: ", "real/ck"),
    "another job's own": (["hydra.sweep.dir=s", "checkpoint.root=null,s/0/checkpoints"], "checkpoint.root: ", "s/0/checkpoints"),
    "a time stamp": (["checkpoint.root='ck/${now:%f}'"], "checkpoint.root: ", "ck/"),
    "the name": (["name=x", "checkpoint.root='ck/${name}'"], "checkpoint.root: ", "ck/x"),
}  # fmt: skip


@pytest.mark.parametrize("case", SHARED)
def test_two_jobs_in_one_folder(case: str, here: Path) -> None:
    overrides, key, folder = SHARED[case]
    swept = [] if any("," in text and "{" not in text for text in overrides) else ["seed=0,1"]
    (text,) = told(*swept, *overrides)
    assert text.startswith(key) and f"write to {here / folder}" in text and GO_ON in text
    if swept:
        assert "jobs 0 (seed=0) and 1 (seed=1) write" in text


def test_all_that_is_shared_is_told_once_each(here: Path) -> None:
    first, second = told("seed=range(0,6)", "hydra.sweep.dir=s", "hydra.sweep.subdir=x", "checkpoint.root=ck")
    assert first.startswith("hydra.sweep.subdir: jobs 0 (seed=0) and 1 (seed=1) and 4 more write to")
    assert second.startswith("checkpoint.root: jobs 0 (seed=0) and 1 (seed=1) and 4 more write to")


def test_the_third_pair_of_many_values(here: Path) -> None:
    """Not every combination of values is composed for the other checks."""
    swept = ["seed=range(0,7)", "data.batch_size=8,16"]
    assert told(*swept, "checkpoint.root='ck/${seed}-${data.batch_size}'") == []
    texts = told(*swept, "checkpoint.root='ck/${seed}'")
    assert len(texts) == 7 and "jobs 8 (data.batch_size=8) and 9 (data.batch_size=16) write" in texts[4]


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["checkpoint.root='ck/${hydra:job.num}'"],
        ["checkpoint.root='ck-${seed}'"],
        ["checkpoint.root='${hydra:runtime.output_dir}/ck'"],
        ["checkpoint.root=ck", "hydra.job.chdir=true"],
        ["hydra.sweep.subdir='${hydra.job.override_dirname}'"],
        ["hydra.sweep.subdir=x", "hydra.sweep.dir='s/${seed}'"],
    ],
    ids=str,
)
def test_folders_of_their_own(overrides: list[str]) -> None:
    assert told("seed=0,1,2", *overrides) == []


def test_values_that_only_a_sweeper_knows() -> None:
    with pytest.raises(HydraException):
        told("seed=0,1", "optim.lr=interval(0,1)", "checkpoint.root=ck")


@pytest.mark.parametrize(
    ("before", "now", "text"),
    [
        (["a=1", "lr=0.1"], ["a=2", "lr=0.1"], ""),
        (["lr=0.3"], ["lr=0.1"], "was lr=0.3 and is now lr=0.1"),
        (["seed=3"], ["lr=0.1"], "was lr=(default) and is now lr=0.1"),
        (None, ["lr=0.1"], ""),
    ],
    ids=["what is not swept may change", "another value", "another key", "never started"],
)
def test_a_job_of_an_earlier_sweep_with_other_values_is_named(
    before: list[str] | None, now: list[str], text: str, tmp_path: Path
) -> None:
    if before is not None:
        hydra = tmp_path / "attempts" / "1" / ".hydra"
        hydra.mkdir(parents=True)
        (hydra / "overrides.yaml").write_text(OmegaConf.to_yaml(before))
    places = [JobFolder(0, now, str(tmp_path), {}), JobFolder(1, [*now[:-1], "lr=0.2"], str(tmp_path / "other"), {})]
    found = [*changed_jobs(places)]
    assert [text in problem and "job 0" in problem for problem in found] == ([True] if text else [])


ROOT, SUBDIR = "checkpoint.root=./ck/../ck", "hydra.sweep.subdir=x"


@pytest.mark.timeout(90)
@pytest.mark.parametrize(
    ("launcher", "shared"),
    [
        ("basic", ROOT),
        pytest.param("dcp_local", SUBDIR, marks=pytest.mark.slow),
        pytest.param("basic", SUBDIR, marks=pytest.mark.slow),
        pytest.param("dcp_slurm", ROOT, marks=pytest.mark.slow),
    ],
)
def test_jobs_that_share_a_folder_are_refused(launcher: str, shared: str, tmp_path: Path) -> None:
    sweep = ["-m", f"hydra/launcher={launcher}", "hydra.sweep.dir=s", "seed=range(0,9)", "data.batch_size=8,16", shared]
    made = Command(tmp_path, ours("meet"), [*sweep, "model=gpt_tiny"]).start()
    assert made.wait() == (2 if launcher == "basic" else 1), made.err
    key, folder = shared.partition("=")[0], "ck" if "root" in shared else "s/x"
    (told,) = [line for line in made.err.splitlines() if line.startswith("  * ")]
    assert told.startswith(f"  * {key}: jobs 0 (data.batch_size=8) and 1 (data.batch_size=16) and 16 more write to")
    assert f"write to {tmp_path / folder}, where" in told
    assert "Traceback" not in made.err
    assert not [*tmp_path.glob("s/*/")] and not (tmp_path / "ck").exists()


@pytest.mark.timeout(90)
@pytest.mark.slow
def test_those_of_a_sweeper_that_submits_by_and_by(tmp_path: Path) -> None:
    (tmp_path / "hydra_plugins/one").mkdir(parents=True)
    (tmp_path / "hydra_plugins/one/__init__.py").write_text(ONE_AT_A_TIME)
    sweep = ["-m", "hydra.sweeper._target_=hydra_plugins.one.One", "hydra/launcher=dcp_local", "hydra.sweep.dir=s"]
    command = [
        sys.executable,
        "-m",
        "dcp_runner",
        *sweep,
        "debug=tiny",
        "dry_run=true",
        "checkpoint.root='ck/${optim.lr}'",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=80)
    assert done.returncode == 1
    assert "jobs 0 (seed=0) and 2 (seed=2) write to" in done.stderr
    assert "== plan of job 1" in done.stdout and "== plan of job 2" not in done.stdout


ONE_AT_A_TIME = """
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

class One(BasicSweeper):
    def sweep(self, arguments):
        for number, rate in enumerate(("0.1", "0.2", "0.1")):
            self.launcher.launch([[*arguments, f"optim.lr={rate}", f"seed={number}"]], initial_job_idx=number)
"""
