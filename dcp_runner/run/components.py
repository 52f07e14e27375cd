"""The components of a run's training state, and what each says about how it is shared."""

from __future__ import annotations

from typing import Any

from dcp_runner.checkpoint.component import StateComponent, WithTraits
from dcp_runner.checkpoint.sharing import AUTO, SharingPattern, SharingTraits
from dcp_runner.checkpoint.state.rng import RngState
from dcp_runner.checkpoint.stateful import StateDiff, Stateful
from dcp_runner.checkpoint.topology import Topology
from dcp_runner.config.schema import Dispatch, RunConfig
from dcp_runner.data.feed import Feed
from dcp_runner.train.callbacks import Callbacks
from dcp_runner.train.parallel.mesh import random_stream
from dcp_runner.train.parallel.strategy import Strategy
from dcp_runner.train.parts import Parts
from dcp_runner.train.progress import Progress


def components_of(
    config: RunConfig, parts: Parts, feed: Stateful, progress: Progress, callbacks: Callbacks
) -> list[StateComponent]:
    """The training state. The random generators come last, because a load must not draw from them afterwards."""
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
        *(component(name, callback, required=False) for name, callback in callbacks.separate.items()),
        component("rng", StreamRng(config.seed, parts.topology), on_missing_copy="fresh"),
    ]


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
        return StateDiff(mismatched=self.stateful.mismatches(state))


class StreamRng(RngState):
    """The generators of a rank, seeded by its random stream instead of by its rank."""

    def __init__(self, seed: int, topology: Topology) -> None:
        super().__init__(seed)
        self.topology = topology

    def reset(self, step: int, rank: int) -> None:
        super().reset(step, random_stream(self.topology, rank))
