"""From a configuration to objects: instantiate every `_target_` and wrap the model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import get_class, instantiate
from torch import nn

from dcp_runner.checkpoint.state.rng import seed_all
from dcp_runner.checkpoint.topology import Topology, consecutive_nodes
from dcp_runner.common.errors import ConfigError
from dcp_runner.config.schema import Dispatch, RunConfig
from dcp_runner.data.central import CentralFeed
from dcp_runner.data.evaluation import evaluation_batches
from dcp_runner.data.feed import Feed, IndependentFeed
from dcp_runner.train.callbacks import Callbacks
from dcp_runner.train.lr_schedule import make_scheduler
from dcp_runner.train.parallel.config import ParallelConfig
from dcp_runner.train.parallel.mesh import rank_mesh
from dcp_runner.train.parallel.split_plan import resolve_split_plan
from dcp_runner.train.parallel.strategy import Strategy
from dcp_runner.train.parts import Parts, TrainingData
from dcp_runner.train.trackers import Tracker, Trackers, run_id_and_last_step

make = partial(instantiate, _convert_="all")
"""Instantiate a `_target_` node with plain Python arguments."""


def topology_of(parallel: ParallelConfig, node_sizes: Sequence[int] = ()) -> Topology:
    """The mesh of all axes with a degree above 1, on nodes of so many ranks (default: one node)."""
    used = {axis: degree for axis, degree in parallel.degrees.items() if degree > 1}
    return Topology(parallel.world_size, used, consecutive_nodes(node_sizes))


def build_model(config: RunConfig, device: torch.device) -> nn.Module:
    """The whole model, the same weights on every rank: on the CPU, or without data on the meta device."""
    seed_all(config.seed)
    with torch.device("meta") if device.type == "meta" else torch.device("cpu"):
        model: nn.Module = make(config.model)
    return model


def build_parts(config: RunConfig, topology: Topology, device: torch.device, model: nn.Module | None = None) -> Parts:
    """Wrapped model, optimizer and schedule on this device; without data on the meta device. `model` comes from
    `build_model`, and may be changed; None: build it.
    """
    strategy: Strategy = get_class(config.parallel.strategy)(**config.parallel.options)
    model = model or build_model(config, device)
    model = strategy.wrap(model, rank_mesh(topology, device), resolve_split_plan(model, config.parallel.plan))
    optimizer = make(config.optim, [parameter for parameter in model.parameters() if parameter.requires_grad])
    scheduler = make_scheduler(optimizer, config.schedule, config.trainer.max_steps)
    loss = make({**config.loss, "_partial_": True})
    return Parts(topology, device, strategy, model, strategy.prepare_optimizer(optimizer), scheduler, loss)


def build_data(config: RunConfig, topology: Topology, rank: int, strategy: Strategy) -> TrainingData:
    """The data of this rank."""
    return TrainingData(_feed(config, topology, rank, strategy), _evaluation(config, topology, rank, strategy))


def _feed(config: RunConfig, topology: Topology, rank: int, strategy: Strategy) -> Feed:
    data = config.data
    part, parts = topology.index(rank, strategy.data_axes)
    common: dict[str, Any] = {
        "dataset": make(data.train),
        "batch_size": data.batch_size,
        "parts": parts,
        "part": part,
        "microbatches": config.trainer.accumulate,
        "seed": config.seed,
        "shuffle": data.shuffle,
        "workers": data.workers,
    }
    if data.dispatch is Dispatch.independent:
        return IndependentFeed(**common)
    part_of_rank = [topology.index(rank, strategy.data_axes)[0] for rank in range(topology.world_size)]
    group = torch.distributed.group.WORLD if topology.world_size > 1 else None
    return CentralFeed(group=group, part_of_rank=part_of_rank, **common)


def _evaluation(config: RunConfig, topology: Topology, rank: int, strategy: Strategy) -> Any:
    if config.data.eval is None or config.trainer.eval_every is None:
        return None
    part, parts = topology.index(rank, strategy.data_axes)
    batch = max(1, config.data.batch_size // parts)
    data = make(config.data.eval)
    samples = config.trainer.eval_samples
    return partial(evaluation_batches, data, samples=samples, batch=batch, part=part, parts=parts, seed=config.seed)


def build_callbacks(config: RunConfig) -> Callbacks:
    """The user's callbacks. A callback with a declared sharing is a component of its own."""
    callbacks = {name: make(node) for name, node in config.callbacks.items()}
    return Callbacks(callbacks, separate=[name for name in callbacks if name in config.sharing])


def build_trackers(config: RunConfig, run_dir: Path) -> Trackers:
    """The user's experiment trackers, started.

    Raises:
        ConfigError: a tracker fails to start.
    """
    if not config.logger.trackers:
        return Trackers()
    run_id, last_logged = run_id_and_last_step(run_dir)
    trackers: list[Tracker] = []
    for name, node in config.logger.trackers.items():
        try:
            trackers.append(make(node, run_dir, run_id))
        except InstantiationException as error:
            why = error.__cause__ or error
            raise ConfigError(f"logger.trackers.{name}: cannot start: {type(why).__name__}: {why}") from error
    return Trackers(trackers, last_logged)
