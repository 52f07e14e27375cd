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
from dcp_runner.config.convert import config_hash, literal, to_plain
from dcp_runner.config.schema import RunConfig
from dcp_runner.launch.job import Job


def new_job(config: RunConfig, entry: str, run_dir: Path, start: Mapping[str, Any]) -> Job:
    """Claim the next attempt of a run folder, and write there how it was configured (one process); `start` has the
    fields of Job that say what this start belongs to.

    Raises:
        ConfigError: the run folder cannot be written.
    """
    plain = to_plain(config)
    try:
        attempt = RunDir(run_dir).new_attempt(_hydra_files(plain))
    except OSError as error:
        path = Path(error.filename or run_dir)
        why = obstacle(path) or f"{path}: {error.strerror}"
        raise ConfigError(f"run folder: cannot be written: {why}") from error
    digest = config_hash(config)
    return Job(entry=entry, config=plain, config_hash=digest, run_dir=str(run_dir), attempt=attempt, **start)


def _hydra_files(plain: Mapping[str, Any]) -> dict[str, str]:
    """The three files that Hydra users look for, each written once."""
    files = {"config.yaml": OmegaConf.to_yaml(OmegaConf.create(literal(plain)))}
    if HydraConfig.initialized():
        hydra = cast(dict[str, Any], OmegaConf.to_container(cast(DictConfig, HydraConfig.get()), resolve=False))
        kept = {key: value for key, value in hydra.items() if key not in ("help", "hydra_help")}
        files["hydra.yaml"] = OmegaConf.to_yaml(OmegaConf.create({"hydra": kept}))
        files["overrides.yaml"] = OmegaConf.to_yaml(HydraConfig.get().overrides.task)
    return files
