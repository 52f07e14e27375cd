"""What a start belongs to: a job of a sweep, a restart by the scheduler, a run with or without a name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from dcp_runner.config.schema import RunConfig
from dcp_runner.sweep import current_job
from dcp_runner.sweep.current_job import in_sweep, start_of
from dcp_runner.sweep.record import JobRecord, Sweep


@pytest.fixture
def hydra(tmp_path: Path) -> Iterator[Any]:
    """Hydra's node of job 3 of a sweep in `tmp_path/s`."""
    node = OmegaConf.create(
        {
            "mode": "MULTIRUN",
            "job": {"num": 3},
            "sweep": {"dir": "s"},
            "run": {"dir": "outputs/${name}"},
            "runtime": {"cwd": str(tmp_path), "output_dir": str(tmp_path / "s/3")},
        }
    )
    before = HydraConfig.instance().cfg
    HydraConfig.instance().cfg = OmegaConf.create({"hydra": node})
    yield HydraConfig.instance().cfg.hydra
    HydraConfig.instance().cfg = before


def start(config: RunConfig | None = None, env: dict[str, str] | None = None, run_dir: Path = Path()) -> dict[str, Any]:
    return start_of(OmegaConf.create({"name": "a"}), config or RunConfig(), run_dir, env or {})


def test_outside_of_hydra_a_start_is_a_run_by_itself() -> None:
    assert not in_sweep()
    assert start() == {"sweep": "", "job": "", "again": False, "dated": False}


def test_jobs_of_a_sweep_have_its_id_and_their_numbers(hydra: Any, tmp_path: Path) -> None:
    assert in_sweep()
    first = start()
    assert first["sweep"].endswith("/3") and first["job"] == ""
    hydra.job.num = 4
    assert start()["sweep"] == first["sweep"].removesuffix("3") + "4"
    assert start(env={"SUBMITIT_EXECUTOR": "slurm"})["job"] == start()["sweep"]
    (tmp_path / "s").rename(tmp_path / "moved")
    hydra.sweep.dir = "moved"
    assert start()["sweep"].partition("/")[0] == first["sweep"].partition("/")[0]


def test_all_jobs_that_start_at_once_have_one_id(hydra: Any, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        ids = set(threads.map(lambda _: current_job._sweep_id(tmp_path / "s"), range(64)))
    assert ids == {json.loads((tmp_path / "s/.sweep/id.json").read_text())["id"]}


@pytest.mark.parametrize(("jobs", "single"), [(1, True), (2, False)])
def test_the_only_job_of_a_launcher_is_a_single_run(hydra: Any, tmp_path: Path, jobs: int, single: bool) -> None:
    (tmp_path / "s").mkdir()
    records = [JobRecord(number=number, overrides=[]) for number in range(jobs)]
    Sweep(path=tmp_path / "s", scheduler="local", jobs=records).write()
    assert (start()["sweep"] == "") == single


def test_a_restart_is_known_as_one() -> None:
    assert start(env={"SLURM_JOB_ID": "7"}) == {"sweep": "", "job": "7", "again": False, "dated": False}
    assert start(env={"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "1"})["again"]
    assert start(RunConfig(resume_sweep="s"))["again"]


@pytest.mark.parametrize(
    ("folder", "dated"), [("outputs/${now:%H}", True), ("outputs/a", False), ("outputs/${name}", False)]
)
def test_a_folder_that_is_named_by_the_time(hydra: Any, tmp_path: Path, folder: str, dated: bool) -> None:
    hydra.mode, hydra.run.dir = "RUN", folder
    assert start(run_dir=tmp_path / "s/3")["dated"] == dated
    assert not start(run_dir=tmp_path / "elsewhere")["dated"], "given by the caller"
