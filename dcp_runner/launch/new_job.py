"""Creates the job of a run: claims its next attempt folder and writes the configuration there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from dcp_runner.common.errors import ConfigError
from dcp_runner.common.folders import obstacle
from dcp_runner.common.run_dir import RunDir
from dcp_runner.config.convert import literal, to_plain
from dcp_runner.launch.job import Job
from dcp_runner.launch.preflight.checks import ResolvedRun


def new_job(run: ResolvedRun, entry: str, start: Mapping[str, Any]) -> Job:
    """Claim the next attempt of a run folder, and write there how it was configured (one process); `start` has the
    fields of Job that say what this start belongs to.

    Raises:
        ConfigError: the run folder cannot be written.
    """
    try:
        attempt = RunDir(run.run_dir).new_attempt(_hydra_files(to_plain(run.config)))
    except OSError as error:
        path = Path(error.filename or run.run_dir)
        why = obstacle(path) or f"{path}: {error.strerror}"
        raise ConfigError(f"run folder: cannot be written: {why}") from error
    folder, digest = str(run.run_dir), run.config_hash
    return Job(entry=entry, config=run.config, config_hash=digest, run_dir=folder, attempt=attempt, **start)


def _hydra_files(plain: Mapping[str, Any]) -> dict[str, str]:
    """The three files that Hydra users look for, each written once."""
    files = {"config.yaml": OmegaConf.to_yaml(OmegaConf.create(literal(plain)))}
    if HydraConfig.initialized():
        hydra = cast(dict[str, Any], OmegaConf.to_container(cast(DictConfig, HydraConfig.get()), resolve=False))
        kept = {key: value for key, value in hydra.items() if key not in ("help", "hydra_help")}
        files["hydra.yaml"] = OmegaConf.to_yaml(OmegaConf.create({"hydra": kept}))
        files["overrides.yaml"] = OmegaConf.to_yaml(HydraConfig.get().overrides.task)
    return files
