"""dcp_runner: experiments configured with Hydra, checkpoints whose sharing between ranks is declared.

The names below are the library's whole public surface; docs/api.md describes each. They are loaded on first use, so
that importing the package (as Hydra's plugin discovery does) costs nothing and does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dcp_runner.app import RunFailed as RunFailed
    from dcp_runner.app import check as check
    from dcp_runner.app import hydra_main as hydra_main
    from dcp_runner.app import run_experiment as run_experiment
    from dcp_runner.checkpoint.component import StateComponent as StateComponent
    from dcp_runner.checkpoint.config import Best as Best
    from dcp_runner.checkpoint.config import Check as Check
    from dcp_runner.checkpoint.config import KeepConfig as KeepConfig
    from dcp_runner.checkpoint.config import Validation as Validation
    from dcp_runner.checkpoint.coordinator import CheckpointCoordinator as CheckpointCoordinator
    from dcp_runner.checkpoint.errors import CheckpointError as CheckpointError
    from dcp_runner.checkpoint.files.manifest import CheckpointManifest as CheckpointManifest
    from dcp_runner.checkpoint.loading.load import LoadReport as LoadReport
    from dcp_runner.checkpoint.retention import steps_to_delete as steps_to_delete
    from dcp_runner.checkpoint.sharing import SharingPattern as SharingPattern
    from dcp_runner.checkpoint.sharing import SharingTraits as SharingTraits
    from dcp_runner.checkpoint.state.rng import RngState as RngState
    from dcp_runner.checkpoint.stateful import HasSharingTraits as HasSharingTraits
    from dcp_runner.checkpoint.stateful import Reshardable as Reshardable
    from dcp_runner.checkpoint.stateful import StateDiff as StateDiff
    from dcp_runner.checkpoint.stateful import Stateful as Stateful
    from dcp_runner.checkpoint.stateful import SupportsDiff as SupportsDiff
    from dcp_runner.checkpoint.stateful import SupportsReset as SupportsReset
    from dcp_runner.checkpoint.stateful import SupportsSelection as SupportsSelection
    from dcp_runner.checkpoint.topology import Topology as Topology
    from dcp_runner.common.errors import ConfigError as ConfigError
    from dcp_runner.common.errors import UserError as UserError
    from dcp_runner.common.run_context import RunContext as RunContext
    from dcp_runner.config.schema import RunConfig as RunConfig
    from dcp_runner.train.callbacks import Callback as Callback
    from dcp_runner.train.callbacks import TrainerView as TrainerView
    from dcp_runner.train.errors import TrainError as TrainError
    from dcp_runner.train.parallel.mesh import RankMesh as RankMesh
    from dcp_runner.train.parallel.split_plan import SplitPlan as SplitPlan
    from dcp_runner.train.parallel.strategy import PlannedRun as PlannedRun
    from dcp_runner.train.parallel.strategy import Strategy as Strategy
    from dcp_runner.train.trackers import Tracker as Tracker

    __version__: str


_NAMES_BY_MODULE = {
    "app": "RunFailed check hydra_main run_experiment",
    "checkpoint.component": "StateComponent",
    "checkpoint.config": "Best Check KeepConfig Validation",
    "checkpoint.coordinator": "CheckpointCoordinator",
    "checkpoint.errors": "CheckpointError",
    "checkpoint.files.manifest": "CheckpointManifest",
    "checkpoint.loading.load": "LoadReport",
    "checkpoint.retention": "steps_to_delete",
    "checkpoint.sharing": "SharingPattern SharingTraits",
    "checkpoint.state.rng": "RngState",
    "checkpoint.stateful": (
        "HasSharingTraits Reshardable StateDiff Stateful SupportsDiff SupportsReset SupportsSelection"
    ),
    "checkpoint.topology": "Topology",
    "common.errors": "ConfigError UserError",
    "common.run_context": "RunContext",
    "config.schema": "RunConfig",
    "train.callbacks": "Callback TrainerView",
    "train.errors": "TrainError",
    "train.parallel.mesh": "RankMesh",
    "train.parallel.split_plan": "SplitPlan",
    "train.parallel.strategy": "PlannedRun Strategy",
    "train.trackers": "Tracker",
}
_HOMES = {name: f"dcp_runner.{module}" for module, names in _NAMES_BY_MODULE.items() for name in names.split()}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("dcp_runner.common.version").__version__
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
