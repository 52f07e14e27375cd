"""From a configuration to objects: the `_target_`s made, the model wrapped, the components of the training state
listed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import get_class, instantiate
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from dcp_runner.checkpoint.component import StateComponent, WithTraits
from dcp_runner.checkpoint.sharing import AUTO, SharingPattern, SharingTraits
from dcp_runner.checkpoint.state.rng import RngState, seed_all
from dcp_runner.checkpoint.stateful import StateDiff, Stateful
from dcp_runner.checkpoint.topology import AXES, Topology, consecutive
from dcp_runner.common.errors import ConfigError
from dcp_runner.config.schema import Dispatch, RunConfig
from dcp_runner.data.central import CentralFeed
from dcp_runner.data.evaluation import evaluation_batches
from dcp_runner.data.feed import Feed, IndependentFeed
from dcp_runner.train.callbacks import Callbacks
from dcp_runner.train.lr_schedule import make_scheduler
from dcp_runner.train.parallel.config import ParallelConfig
from dcp_runner.train.parallel.mesh import random_stream, rank_mesh
from dcp_runner.train.parallel.split_plan import split_plan
from dcp_runner.train.parallel.strategy import Loss, Strategy
from dcp_runner.train.progress import Progress
from dcp_runner.train.trackers import Tracker, Trackers, begin

make = partial(instantiate, _convert_="all")
"""Make the object of a `_target_` node; its arguments are plain Python."""


@dataclass(frozen=True)
class Parts:
    """The objects that a run trains."""

    topology: Topology
    strategy: Strategy
    model: nn.Module
    optimizer: Optimizer
    scheduler: LambdaLR
    loss: Loss


def topology_of(parallel: ParallelConfig, local_world_size: int | None = None) -> Topology:
    """The mesh of all axes with a degree above 1; nodes of so many ranks each (default: one node)."""
    degrees = {axis: getattr(parallel, axis) for axis in AXES}
    world = 1
    for degree in degrees.values():
        world *= degree
    local = local_world_size or world
    used = {axis: degree for axis, degree in degrees.items() if degree > 1}
    return Topology(world, used, consecutive([local] * (world // local)))


def build_model(config: RunConfig, device: torch.device) -> nn.Module:
    """The whole model, the same weights on every rank: on the CPU, or on the meta device without data."""
    seed_all(config.seed)
    with torch.device("meta") if device.type == "meta" else torch.device("cpu"):
        model: nn.Module = make(config.model)
    return model


def build(config: RunConfig, topology: Topology, device: torch.device, model: nn.Module) -> Parts:
    """Wrapped model, optimizer and schedule on this device; on the meta device nothing has data. `model` comes from
    `build_model`, and may be changed.
    """
    strategy: Strategy = get_class(config.parallel.strategy)(**config.parallel.options)
    model = strategy.wrap(model, rank_mesh(topology, device), split_plan(model, config.parallel.plan))
    optimizer = make(config.optim, [parameter for parameter in model.parameters() if parameter.requires_grad])
    scheduler = make_scheduler(optimizer, config.schedule, config.trainer.max_steps)
    loss = make({**config.loss, "_partial_": True})
    return Parts(topology, strategy, model, strategy.prepare(optimizer), scheduler, loss)


def feed_of(config: RunConfig, topology: Topology, rank: int, strategy: Strategy) -> Feed:
    """The training data as this rank gets it."""
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


def evaluation_of(config: RunConfig, topology: Topology, rank: int, strategy: Strategy) -> Any:
    """A function that begins a pass over this rank's part of the evaluation set; None: the run never evaluates."""
    if config.data.eval is None or config.trainer.eval_every is None:
        return None
    part, parts = topology.index(rank, strategy.data_axes)
    batch = max(1, config.data.batch_size // parts)
    data = make(config.data.eval)
    samples = config.trainer.eval_samples
    return partial(evaluation_batches, data, samples=samples, batch=batch, part=part, parts=parts, seed=config.seed)


def dataset_traits(dispatch: Dispatch, strategy: Strategy, topology: Topology) -> SharingTraits:
    """How the data position is shared."""
    if topology.world_size == 1:
        return SharingTraits("one rank reads", pattern=SharingPattern.GLOBAL)
    if dispatch is Dispatch.central:
        return SharingTraits("rank 0 reads and scatters (data.dispatch=central)", pattern=SharingPattern.GLOBAL)
    return SharingTraits("every data-parallel rank reads its own part", varies_along=frozenset(strategy.data_axes))


class DatasetPosition(WithTraits):
    """The data position, compared with the saved one before anything is loaded."""

    stateful: Feed

    def differences(self, state: dict[str, Any]) -> StateDiff:
        return StateDiff(wrong=self.stateful.unlike(state))


class StreamRng(RngState):
    """The generators of a rank, seeded by its random stream instead of by the rank."""

    def __init__(self, seed: int, topology: Topology) -> None:
        super().__init__(seed)
        self.topology = topology

    def reset(self, step: int, rank: int) -> None:
        super().reset(step, random_stream(self.topology, rank))


def components_of(
    config: RunConfig, parts: Parts, feed: Stateful, progress: Progress, callbacks: Callbacks
) -> list[StateComponent]:
    """The training state. The random generators come last, because a load must draw nothing after them."""
    dataset = (DatasetPosition if isinstance(feed, Feed) else WithTraits)(
        feed, dataset_traits(config.data.dispatch, parts.strategy, parts.topology)
    )
    sharing = config.sharing

    def component(key: str, stateful: Any, **more: Any) -> StateComponent:
        return StateComponent(key, stateful, sharing.get(key, AUTO), **more)

    return [
        component("model", parts.model),
        component("optimizer", parts.optimizer),
        component("scheduler", parts.scheduler),
        component("dataset", dataset, on_missing_copy="first"),
        component("progress", progress),
        component("callbacks", callbacks),
        *(component(name, callback, required=False) for name, callback in callbacks.apart.items()),
        component("rng", StreamRng(config.seed, parts.topology), on_missing_copy="fresh"),
    ]


def callbacks_of(config: RunConfig) -> Callbacks:
    """The user's callbacks; one for which a sharing is declared is a component of its own."""
    made = {name: make(node) for name, node in config.callbacks.items()}
    return Callbacks(made, apart=[name for name in made if name in config.sharing])


def trackers_of(config: RunConfig, run_dir: Path) -> Trackers:
    """The user's experiment trackers, started.

    Raises:
        ConfigError: one does not start.
    """
    if not config.logger.trackers:
        return Trackers()
    run_id, mark = begin(run_dir)
    made: list[Tracker] = []
    for name, node in config.logger.trackers.items():
        try:
            made.append(make(node, run_dir, run_id))
        except InstantiationException as error:
            why = error.__cause__ or error
            raise ConfigError(f"logger.trackers.{name}: it does not start: {type(why).__name__}: {why}") from error
    return Trackers(made, mark)
