"""Where the jobs of a sweep write. A sweep in which two jobs would write to the same folder is rejected: the second
would resume from the checkpoints of the first, train little or nothing, and report success.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import filter_overrides
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from dcp_runner.common.folders import obstacle
from dcp_runner.common.run_dir import RunDir
from dcp_runner.launch.preflight.hydra_private import BasicSweeper

_REMEDIES = {
    "hydra.sweep.subdir": "put ${hydra:job.num} into it",
    "checkpoint.root": "leave it out, or put ${hydra:job.num} into it",
}


@dataclass(frozen=True)
class JobFolder:
    """The folders of one job."""

    number: int
    overrides: Sequence[str]
    run_dir: str
    """As it is named."""
    folders: Mapping[str, str]
    """Absolute, without links, with the key that says where each is; the run folder comes first."""


@contextmanager
def hydra_config_set(cfg: DictConfig) -> Iterator[None]:
    """Within the context, HydraConfig holds the Hydra node of this composed configuration."""
    before = HydraConfig.instance().cfg
    HydraConfig.instance().cfg = cast(Any, cfg)
    try:
        yield
    finally:
        HydraConfig.instance().cfg = before


def job_folder_of(cfg: DictConfig, number: int, overrides: Sequence[str]) -> JobFolder:
    """Of a job with this composed configuration, whose Hydra node is completed as Hydra does it at the job's start.

    Raises:
        OmegaConfBaseException: an interpolation that cannot be resolved.
    """
    with hydra_config_set(cfg), read_write(cfg.hydra), open_dict(cfg.hydra):
        cfg.hydra.job.id = cfg.hydra.job.num = number
        run = os.path.abspath(os.path.join(str(cfg.hydra.sweep.dir), str(cfg.hydra.sweep.subdir)))
        cfg.hydra.runtime.output_dir = run
        root = OmegaConf.select(cfg, "checkpoint.root")
        started_in = run if cfg.hydra.job.chdir else os.getcwd()
    checkpoints = str(RunDir(Path(run)).checkpoints) if root is None else os.path.join(started_in, str(root))
    folders = {os.path.realpath(run): "hydra.sweep.subdir", os.path.realpath(checkpoints): "checkpoint.root"}
    return JobFolder(number, filter_overrides(list(overrides)), run, folders)


def task_overrides(cfg: DictConfig) -> list[str]:
    """The overrides that it was composed with, but for those of Hydra, as they were written."""
    return cast(list[str], OmegaConf.to_container(cfg.hydra.overrides.task, resolve=False))


def sweep_lines(loader: ConfigLoader, sweep: DictConfig) -> list[list[str]]:
    """The overrides of every job that Hydra's own sweeper makes of a composed sweep, in their order.

    Raises:
        HydraException: they are not all known.
    """
    given = [f"{key}={value}" for key, value in (sweep.hydra.sweeper.get("params") or {}).items()]
    parsed = OverridesParser.create(config_loader=loader).parse_overrides([*given, *task_overrides(sweep)])
    return BasicSweeper.split_arguments(parsed, None)[0]


def job_folders(loader: ConfigLoader, sweep: DictConfig) -> Iterator[JobFolder]:
    """Of all jobs of a sweep by Hydra's own sweeper.

    Raises:
        HydraException, OmegaConfBaseException: they are not all known, or one cannot be composed.
    """
    for number, line in enumerate(sweep_lines(loader, sweep)):
        cfg = loader.load_sweep_config(sweep, line)
        yield job_folder_of(cfg, number, line)
        OmegaConf.copy_cache(from_config=cfg, to_config=sweep)  # time stamps are those of the sweep


def shared_folders(jobs: Sequence[JobFolder]) -> Iterator[str]:
    """What is wrong with jobs that write to the same folders: one text for each folder."""
    users: dict[str, list[JobFolder]] = {}
    for job in jobs:
        for folder in job.folders:
            users.setdefault(folder, []).append(job)
    several = {folder: sharing for folder, sharing in users.items() if len(sharing) > 1}
    for folder, (first, second, *more) in several.items():
        if os.path.dirname(folder) in several:  # the checkpoints of a run folder that is shared
            continue
        key = second.folders[folder]
        names = f"{_name(first, second)} and {_name(second, first)}" + (f" and {len(more)} more" if more else "")
        yield (
            f"{key}: jobs {names} write to {folder}, where one would resume from the checkpoints of the other; "
            f"{_REMEDIES[key]}"
        )


def blocked_folders(jobs: Sequence[JobFolder]) -> Iterator[str]:
    """Why run folders cannot be made, a text for each reason."""
    reported: set[str] = set()
    for job in jobs:
        why = obstacle(Path(job.run_dir))
        if why is not None and why not in reported:
            reported.add(why)
            yield f"hydra.sweep.subdir: the run folder of job {job.number} cannot be created: {why}"


def changed_jobs(jobs: Sequence[JobFolder]) -> Iterator[str]:
    """Jobs whose folder holds a job of an earlier sweep with other values of the swept keys: one would resume from
    the other and report its results.
    """
    values = [_values(job.overrides) for job in jobs]
    swept = {key for of_job in values for key in of_job if any(other.get(key) != of_job[key] for other in values)}
    for job, now in zip(jobs, values, strict=True):
        before = _values(_recorded(Path(job.run_dir)) or job.overrides)
        changed = sorted(key for key in swept if before.get(key) != now.get(key))
        if changed:
            was, new = (", ".join(f"{key}={of.get(key, '(default)')}" for key in changed) for of in (before, now))
            yield (
                f"hydra.sweep.dir: job {job.number} in {job.run_dir} was {was} and is now {new}; give this sweep "
                "its own folder"
            )


def _values(overrides: Sequence[str]) -> dict[str, str]:
    """Value by key of overrides, which are text."""
    return {key.lstrip("+"): value for key, _, value in (text.partition("=") for text in overrides)}


def _recorded(run_dir: Path) -> list[str] | None:
    """The overrides of the last start in a run folder; None: it has never been started."""
    run = RunDir(run_dir)
    file = run.attempt(run.last_attempt()).hydra / "overrides.yaml"
    return [str(text) for text in OmegaConf.load(file)] if file.is_file() else None


def _name(job: JobFolder, other: JobFolder) -> str:
    """A job with what it does differently."""
    own = [text for text in job.overrides if text not in other.overrides]
    return f"{job.number} ({' '.join(own)})" if own else str(job.number)
