"""What a start belongs to: a job of a sweep, a job that its scheduler restarts, or a run without a given name."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from dcp_runner.checkpoint.files.ownership import make_once
from dcp_runner.config.schema import RunConfig
from dcp_runner.launch.requeue import restarts
from dcp_runner.sweep.record import FILE, read

SWEEP, RECORD = ".sweep", "id.json"


def start_of(cfg: DictConfig, config: RunConfig, run_dir: Path, env: Mapping[str, str]) -> dict[str, Any]:
    """The fields of Job that say what this start belongs to. A sweep of one job by a launcher is a single run."""
    sweep = _sweep_dir() if in_sweep() else None
    job = f"{_sweep_id(sweep)}/{HydraConfig.get().job.num}" if sweep else ""
    single = sweep is None or ((sweep / FILE).is_file() and len(read(sweep).jobs) == 1)
    return {
        "sweep": "" if single else job,
        "job": job if job and "SUBMITIT_EXECUTOR" in env else env.get("SLURM_JOB_ID", ""),
        "again": restarts(env) > 0 or config.resume_sweep is not None,
        "dated": single and _is_dated(cfg, run_dir),
    }


def in_sweep() -> bool:
    """Whether this is a job of a sweep."""
    modes = (RunMode.MULTIRUN, RunMode.MULTIRUN.name)  # a name on ranks that received it from rank 0 as text
    return HydraConfig.initialized() and HydraConfig.get().mode in modes


def _sweep_dir() -> Path:
    hydra = HydraConfig.get()
    return Path(hydra.runtime.cwd) / str(hydra.sweep.dir)


def _sweep_id(folder: Path) -> str:
    """A random id, made by the first job of a sweep for all of them; it moves with the sweep folder."""
    file = folder / SWEEP / RECORD
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        new = uuid.uuid4().hex
        make_once(folder / SWEEP, RECORD, {"id": new}, folder / f"{SWEEP}-{new}")
    return str(json.loads(file.read_text(encoding="utf-8"))["id"])


def _is_dated(cfg: DictConfig, run_dir: Path) -> bool:
    """Whether the run folder is named by the time of the start, as it is by default."""
    if not HydraConfig.initialized() or run_dir != Path(HydraConfig.get().runtime.output_dir):
        return False
    hydra = HydraConfig.get()
    raw = cast(dict[str, Any], OmegaConf.to_container(hydra.sweep if in_sweep() else hydra.run, resolve=False))["dir"]
    name = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=False)).get("name")
    return "${now:" in str(raw) or ("${name}" in str(raw) and "${now:" in str(name))
