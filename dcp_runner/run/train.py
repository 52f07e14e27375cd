"""A run, in every rank: build, meet, resume, train. The launcher's entry."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch.distributed as dist

from dcp_runner.checkpoint.coordinator import CheckpointCoordinator
from dcp_runner.checkpoint.loading.load import LoadReport
from dcp_runner.checkpoint.state.rng import seed_all
from dcp_runner.common.device import device_of
from dcp_runner.common.files import writing
from dcp_runner.common.run_context import RunContext
from dcp_runner.common.run_dir import RunDir
from dcp_runner.common.tables import as_text, table
from dcp_runner.config.diff import changes
from dcp_runner.config.schema import ResumeRng, RunConfig
from dcp_runner.run.build import build, callbacks_of, components_of, evaluation_of, feed_of, topology_of, trackers_of
from dcp_runner.run.disk_forecast import forecast
from dcp_runner.run.plan_table import checkpoint_size, plan_table, sizes_of
from dcp_runner.run.resume import ResumeRequest
from dcp_runner.run.start import begin
from dcp_runner.train.loop import Trainer, rng_put_back, to_device
from dcp_runner.train.lr_schedule import built_options, override, rate_change, set_rate
from dcp_runner.train.metrics_log import Report, RunReport
from dcp_runner.train.parallel.mesh import random_stream
from dcp_runner.train.policies import effective
from dcp_runner.train.precision import autocast
from dcp_runner.train.progress import Progress

log = logging.getLogger("dcp_runner.train")


def train(config: RunConfig, run: RunContext) -> None:
    """Run the training of `config` as the rank that `run` tells. All ranks call it; the process group is open where
    there are several.

    1. build model, data and components, alike on all ranks
    2. one throw-away pass where the parallelism needs it
    3. make the coordinator; show the plan
    4. resume, or start from (seed, 0, random stream of the rank)
    5. train to `trainer.max_steps`, if that is not reached yet
    """
    device = device_of(config.trainer.device, run.local_rank, run.local_world_size)
    topology = topology_of(config.parallel, run.node_sizes)
    parts = build(config, topology, device)
    feed = feed_of(config, topology, run.rank, parts.strategy)
    with autocast(device, config.trainer.precision):
        parts.strategy.warm_up(parts.model, to_device(feed.example(), device), parts.loss)
    progress, callbacks = Progress(), callbacks_of(config)
    keep = config.checkpoint.keep
    coordinator = CheckpointCoordinator(
        components_of(config, parts, feed, progress, callbacks),
        topology,
        Path(config.checkpoint.root or RunDir(run.run_dir).checkpoints),
        config.checkpoint.validation,
        validation_for=config.checkpoint.validation_for,
        check=config.checkpoint.check,
        timeout_s=config.checkpoint.timeout_s,
        attempt=run.attempt,
        best=(keep.metric, keep.mode.value),
        config=run.config_hash,
    )
    sizes = sizes_of(coordinator.bound)
    log.info("\n%s", plan_table(coordinator.bound, sizes, topology))
    seed_all(config.seed, 0, random_stream(topology, run.rank))
    fresh = ["rng"] if config.resume_rng is ResumeRng.reseed else []
    wish, built = ResumeRequest(config.resume, config.resume_skip, fresh), built_options(parts.optimizer)
    begun = begin(wish, run, coordinator, progress, config.trainer.max_steps)
    loaded = begun.loaded
    if not begun.trains:
        if loaded is not None:
            log.info("%s", changed_keys(loaded, run, config.resume_override).lstrip())
        feed.close()
        return
    override(parts.optimizer, parts.scheduler, built, [key.removeprefix("optim.") for key in config.resume_override])
    if loaded is not None:
        set_rate(parts.scheduler)
    with rng_put_back():  # no tracker takes random numbers away
        report = report_of(config, run)
    if run.rank == 0:
        size = checkpoint_size(coordinator.bound, sizes)
        tell_disk(config, config.trainer.max_steps - progress.step, size, coordinator)
    tell_start(report, run, coordinator, loaded, config.resume_override)
    trainer = Trainer(
        config=config.trainer,
        checkpoint=config.checkpoint,
        strategy=parts.strategy,
        model=parts.model,
        loss=parts.loss,
        optimizer=parts.optimizer,
        scheduler=parts.scheduler,
        feed=feed,
        evaluation=evaluation_of(config, topology, run.rank, parts.strategy),
        progress=progress,
        callbacks=callbacks,
        coordinator=coordinator,
        report=report,
        stop=run.stop,
        device=device,
        source=own_step(loaded, coordinator),
    )
    try:
        trainer.run()
    finally:
        report.close()
        feed.close()
        coordinator.release()
    tell_end(coordinator, run)


def own_step(loaded: LoadReport | None, coordinator: CheckpointCoordinator) -> int | None:
    """Step of the checkpoint that the run resumed from, if it is one of its own, however its path was spelt."""
    if loaded is None:
        return None
    folder, root = loaded.path, coordinator.storage.root
    own = coordinator.comm.on_rank_0("find", lambda: folder.resolve().parent.samefile(root))
    return loaded.step if own else None


def report_of(config: RunConfig, run: RunContext) -> Report:
    """Rank 0 tells; the others are silent. The configuration as launched is kept beside the attempt, for the next
    one to compare.
    """
    if run.rank != 0:
        return Report()
    file = RunDir(run.run_dir).attempt(run.attempt).config_file
    with writing(file):  # whole or not at all: the next start reads it
        file.with_suffix(".new").write_text(json.dumps(run.config, indent=2))
        file.with_suffix(".new").replace(file)
    logger, trackers = config.logger, trackers_of(config, run.run_dir)
    return RunReport(RunDir(run.run_dir).metrics_file, run.attempt, logger.every_steps, logger.progress, trackers)


def tell_disk(config: RunConfig, steps: int, size: int | None, coordinator: CheckpointCoordinator) -> None:
    """The disk that the checkpoints of these steps will need, and has: a warning where that is too little."""
    if not config.checkpoint.saves:
        return
    evaluates = config.data.eval is not None and config.trainer.eval_every is not None
    kept = replace(config.checkpoint, keep=effective(config.checkpoint.keep, evaluates))
    text, enough = forecast(kept, steps, size, coordinator.storage.root)
    if enough:
        log.info("%s", text)
    else:
        log.warning("%s. checkpoint.keep.last keeps fewer, checkpoint.root is another disk", text)


def tell_start(
    report: Report,
    run: RunContext,
    coordinator: CheckpointCoordinator,
    loaded: LoadReport | None,
    overridden: list[str],
) -> None:
    """One line on what happened; after a resume two tables: what came of each component, and of each changed key."""
    if loaded is None:
        report.event(0, "fresh", f"FRESH start in {run.run_dir} (no checkpoint in {coordinator.storage.root})")
        return
    manifest = loaded.manifest
    before = " x ".join(f"{axis}={n}" for axis, n in manifest.axes.items())
    now = " x ".join(f"{axis}={n}" for axis, n in coordinator.topology.mesh.items())
    text = f"RESUMED step={loaded.step} from {loaded.path}"
    text += f" (config {manifest.config} -> {run.config_hash}, {before} -> {now})"
    components = [(row.component, row.saved, row.here, row.action) for row in loaded.rows]
    text += "\n" + as_text(table(("component", "as saved", "as loaded", "what was done"), components))
    text += changed_keys(loaded, run, overridden) + "".join(f"\n{line}" for line in loaded.notes)
    report.event(loaded.step, "resumed", text, source=str(loaded.path))


def changed_keys(loaded: LoadReport, run: RunContext, overridden: list[str]) -> str:
    """A table of what the configuration has otherwise than that of the checkpoint; empty if it is the same."""
    old, new = _launched(loaded), run.config
    if not old:
        return ""
    found = changes(old, new, overridden, rate_change(old, new, loaded.step, overridden))
    rows = [(change.key, str(change.old), str(change.new), change.effect) for change in found]
    return "\n" + as_text(table(("changed key", "before", "now", "effect"), rows)) if rows else ""


def _launched(loaded: LoadReport) -> Any:
    file = RunDir(loaded.path.parent.parent).attempt(loaded.manifest.attempt).config_file
    return json.loads(file.read_text()) if file.is_file() else None


def tell_end(coordinator: CheckpointCoordinator, run: RunContext) -> None:
    """Where the checkpoints are and how to go on."""
    steps = list(coordinator.steps())
    log.info("DONE. Checkpoints of steps %s in %s", steps, coordinator.storage.root)
    name = str(run.config.get("name"))
    how = f"name={name}" if run.run_dir.as_posix().endswith(name) else f"resume={run.run_dir}"
    schedule, steps = run.config["schedule"], run.config["trainer"]["max_steps"]
    if schedule["decay"] != "constant" and schedule["steps"] is None:
        how += f"; with schedule.steps={steps} the learning rate stays where its decay has ended"
    log.info("To go on, give the same command with a larger trainer.max_steps and %s", how)
    if dist.is_initialized():
        dist.barrier()
