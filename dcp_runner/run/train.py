"""A run, in every rank: build, resume, train. The entry point of the launcher."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from dcp_runner.checkpoint.component import StateComponent
from dcp_runner.checkpoint.coordinator import CheckpointCoordinator
from dcp_runner.checkpoint.state.rng import seed_all
from dcp_runner.checkpoint.topology import Topology
from dcp_runner.common.device import device_of
from dcp_runner.common.run_context import RunContext
from dcp_runner.common.run_dir import RunDir
from dcp_runner.config.schema import ResumeRng, RunConfig
from dcp_runner.run.build import build_callbacks, build_data, build_parts, build_trackers, topology_of
from dcp_runner.run.components import components_of
from dcp_runner.run.launched_config import changed_keys, write_config
from dcp_runner.run.plan_table import checkpoint_size, plan_table, tensor_sizes
from dcp_runner.run.resume import ResumeRequest
from dcp_runner.run.start import StartState, start_or_resume
from dcp_runner.run.summary import log_disk_forecast, log_end, log_start
from dcp_runner.train.loop import Trainer
from dcp_runner.train.lr_schedule import options_as_built, override_options, set_lr
from dcp_runner.train.metrics_log import MetricsLog, Rank0MetricsLog
from dcp_runner.train.parallel.mesh import random_stream
from dcp_runner.train.parts import Parts
from dcp_runner.train.progress import Progress
from dcp_runner.train.rng import preserve_rng

log = logging.getLogger("dcp_runner.train")


def train(config: RunConfig, run: RunContext) -> None:
    """Train as the rank that `run` describes. All ranks call it; with several ranks the process group is open.

    1. build the model, the data and the callbacks, with the same weights on all ranks; warm up
    2. build the coordinator of the training state; show the plan table
    3. seed, then resume or start fresh
    4. open the metrics log; log how the run starts
    5. train to `trainer.max_steps`, unless that is reached already
    """
    device = device_of(config.trainer.device, run.local_rank, run.local_world_size)
    topology = topology_of(config.parallel, run.node_sizes)
    parts = build_parts(config, topology, device)
    data = build_data(config, topology, run.rank, parts.strategy)
    progress, callbacks = Progress(), build_callbacks(config)
    parts.warm_up(data.feed.example(), config.trainer.precision)

    components = components_of(config, parts, data.feed, progress, callbacks)
    coordinator = _coordinator(config, run, components, topology)
    sizes = tensor_sizes(coordinator.bound)
    log.info("\n%s", plan_table(coordinator.bound, sizes, topology))

    seed_all(config.seed, 0, random_stream(topology, run.rank))
    state = _start_or_resume(config, run, coordinator, parts, progress)
    if not state.needs_training:
        if state.loaded is not None and (text := changed_keys(state.loaded, run, config.resume_override)):
            log.info("%s", text.lstrip())
        data.feed.close()
        return

    metrics_log = _metrics_log(config, run)
    remaining = config.trainer.max_steps - progress.step
    log_disk_forecast(config, remaining, checkpoint_size(coordinator.bound, sizes), coordinator)
    log_start(metrics_log, run, coordinator, state.loaded, config.resume_override)

    trainer = Trainer(
        config=config.trainer,
        checkpoint=config.checkpoint,
        parts=parts,
        data=data,
        progress=progress,
        callbacks=callbacks,
        coordinator=coordinator,
        metrics_log=metrics_log,
        stop=run.stop,
        resumed_step=state.own_step,
    )
    try:
        trainer.run()
    finally:
        metrics_log.close()
        data.feed.close()
        coordinator.release()
    log_end(coordinator, run)


def _coordinator(
    config: RunConfig, run: RunContext, components: Sequence[StateComponent], topology: Topology
) -> CheckpointCoordinator:
    checkpoint = config.checkpoint
    return CheckpointCoordinator(
        components,
        topology,
        Path(checkpoint.root or RunDir(run.run_dir).checkpoints),
        checkpoint.validation,
        validation_for=checkpoint.validation_for,
        check=checkpoint.check,
        timeout_s=checkpoint.timeout_s,
        attempt=run.attempt,
        best=(checkpoint.keep.metric, checkpoint.keep.mode.value),
        config=run.config_hash,
    )


def _start_or_resume(
    config: RunConfig, run: RunContext, coordinator: CheckpointCoordinator, parts: Parts, progress: Progress
) -> StartState:
    """As `start_or_resume`; then the options that `resume_override` names are those of this run's configuration."""
    as_built = options_as_built(parts.optimizer)
    fresh = ["rng"] if config.resume_rng is ResumeRng.reseed else []
    request = ResumeRequest(config.resume, config.resume_skip, fresh)
    state = start_or_resume(request, run, coordinator, progress, config.trainer.max_steps)
    if state.needs_training and state.loaded is not None:
        keys = [key.removeprefix("optim.") for key in config.resume_override]
        override_options(parts.optimizer, parts.scheduler, as_built, keys)
        set_lr(parts.scheduler)
    return state


def _metrics_log(config: RunConfig, run: RunContext) -> MetricsLog:
    """Rank 0 writes the metrics, and the configuration of this attempt; the other ranks write nothing."""
    if run.rank != 0:
        return MetricsLog()
    write_config(run)
    with preserve_rng():  # trackers may draw random numbers
        trackers = build_trackers(config, run.run_dir)
    logger = config.logger
    return Rank0MetricsLog(RunDir(run.run_dir).metrics_file, run.attempt, logger.every_steps, logger.progress, trackers)
