"""Which jobs of a sweep would write into one folder, from the command line alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from composing import kept_loader
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf

from dcp_runner.launch.preflight.compose_cache import ComposeOnce
from dcp_runner.launch.preflight.sweep_folders import JobFolder, changed_jobs, job_folders, shared_folders

GO_ON = "where one would go on from the checkpoints of the other"


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
        (["lr=0.3"], ["lr=0.1"], "was lr=0.3, and is lr=0.1 now"),
        (["seed=3"], ["lr=0.1"], "was lr=(default), and is lr=0.1 now"),
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
