"""What a start belongs to: a job of a sweep, a job that its scheduler starts again, or a run without a given name."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from dcp_runner.checkpoint.ownership import make_once
from dcp_runner.config import RunConfig
from dcp_runner.launch.requeue import restarts

SWEEP, RECORD = ".sweep", "id.json"


def start_of(cfg: DictConfig, config: RunConfig, env: Mapping[str, str]) -> dict[str, Any]:
    """Those fields of Job that tell what this start belongs to."""
    sweep = f"{_sweep_id()}/{HydraConfig.get().job.num}" if in_sweep() else ""
    submitted = sweep if "SUBMITIT_EXECUTOR" in env else ""
    return {
        "sweep": sweep,
        "job": submitted or env.get("SLURM_JOB_ID", ""),
        "again": restarts(env) > 0 or config.resume_sweep is not None,
        "dated": _is_dated(cfg),
    }


def in_sweep() -> bool:
    """Whether this is one of several jobs of a command."""
    modes = (RunMode.MULTIRUN, RunMode.MULTIRUN.name)  # a name, where rank 0 has sent it as text
    return HydraConfig.initialized() and HydraConfig.get().mode in modes


def _sweep_id() -> str:
    """A random id, made by the first job of a sweep for all of them, and moved with the sweep's folder."""
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.cwd) / str(hydra.sweep.dir)
    file = folder / SWEEP / RECORD
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        new = uuid.uuid4().hex
        make_once(folder / SWEEP, RECORD, {"id": new}, folder / f"{SWEEP}-{os.getpid()}-{new}")
    return str(json.loads(file.read_text(encoding="utf-8"))["id"])


def _is_dated(cfg: DictConfig) -> bool:
    """Whether the time of the start makes the run folder's name, as it does where nobody gives another."""
    if not HydraConfig.initialized():
        return False
    raw = cast(dict[str, Any], OmegaConf.to_container(HydraConfig.get().run, resolve=False))["dir"]
    name = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=False)).get("name")
    return "${now:" in str(raw) or ("${name}" in str(raw) and "${now:" in str(name))
