"""What a run prints at its start and at its end."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch.distributed as dist

from dcp_runner.checkpoint.coordinator import CheckpointCoordinator
from dcp_runner.checkpoint.loading.load import LoadReport
from dcp_runner.common.run_context import RunContext
from dcp_runner.common.tables import as_text, table
from dcp_runner.config.schema import RunConfig
from dcp_runner.run.disk_forecast import forecast_disk_use
from dcp_runner.run.launched_config import changed_keys
from dcp_runner.train.metrics_log import MetricsLog
from dcp_runner.train.policies import effective_keep

log = logging.getLogger("dcp_runner.train")


def log_disk_forecast(config: RunConfig, steps: int, size: int | None, coordinator: CheckpointCoordinator) -> None:
    """On rank 0: the disk space that the checkpoints of the remaining steps need; a warning if there is too little."""
    if not config.checkpoint.saves or coordinator.comm.rank != 0:
        return
    evaluates = config.data.eval is not None and config.trainer.eval_every is not None
    checkpoint = replace(config.checkpoint, keep=effective_keep(config.checkpoint.keep, evaluates))
    text, enough = forecast_disk_use(checkpoint, steps, size, coordinator.storage.root)
    if enough:
        log.info("%s", text)
    else:
        log.warning("%s. Keep fewer with checkpoint.keep.last, or move checkpoint.root to another disk", text)


def log_start(
    metrics_log: MetricsLog,
    run: RunContext,
    coordinator: CheckpointCoordinator,
    loaded: LoadReport | None,
    overridden: Sequence[str],
) -> None:
    """One line on how the run starts. After a resume also two tables: what was done with each component, and with each
    changed key.
    """
    if loaded is None:
        text = f"FRESH start in {run.run_dir} (no checkpoint in {coordinator.storage.root})"
        metrics_log.event(0, "fresh", text)
        return
    manifest = loaded.manifest
    text = f"RESUMED step={loaded.step} from {loaded.path} (config {manifest.config} -> {run.config_hash}, "
    text += f"{_mesh_text(manifest.axes)} -> {_mesh_text(coordinator.topology.mesh)})"
    components = [(row.component, row.saved, row.current, row.action) for row in loaded.rows]
    text += "\n" + as_text(table(("component", "as saved", "as loaded", "what was done"), components))
    text += changed_keys(loaded, run, overridden) + "".join(f"\n{line}" for line in loaded.accepted)
    metrics_log.event(loaded.step, "resumed", text, source=str(loaded.path))


def log_end(coordinator: CheckpointCoordinator, run: RunContext) -> None:
    """Where the checkpoints are, and how to continue the run. All ranks call it."""
    root = coordinator.storage.root
    log.info("DONE. Checkpoints of steps %s in %s", list(coordinator.steps()), root)
    name = str(run.config.get("name"))
    how = f"name={name}" if run.run_dir.as_posix().endswith(name) else f"resume={root}"
    schedule, steps = run.config["schedule"], run.config["trainer"]["max_steps"]
    if schedule["decay"] != "constant" and schedule["steps"] is None:
        how += f"; add schedule.steps={steps} to keep the learning rate at its final value"
    log.info("To continue, run the same command with a larger trainer.max_steps and %s", how)
    if dist.is_initialized():
        dist.barrier()


def _mesh_text(axes: Mapping[str, int]) -> str:
    return " x ".join(f"{axis}={degree}" for axis, degree in axes.items())
