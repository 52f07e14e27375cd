"""dcp_runner: experiments configured with Hydra, checkpoints whose sharing between ranks is declared.

The names below are the library's whole surface. They are loaded on first use, so that importing the package (as
Hydra's plugin discovery does) costs nothing and does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dcp_runner.checkpoint.component import StateComponent as StateComponent
    from dcp_runner.checkpoint.coordinator import CheckpointCoordinator as CheckpointCoordinator
    from dcp_runner.checkpoint.errors import CheckpointError as CheckpointError
    from dcp_runner.checkpoint.files.manifest import CheckpointManifest as CheckpointManifest
    from dcp_runner.checkpoint.sharing import SharingPattern as SharingPattern
    from dcp_runner.checkpoint.topology import Topology as Topology

__version__ = "0.1.0"

_HOMES = {
    "CheckpointCoordinator": "dcp_runner.checkpoint.coordinator",
    "CheckpointError": "dcp_runner.checkpoint.errors",
    "CheckpointManifest": "dcp_runner.checkpoint.files.manifest",
    "SharingPattern": "dcp_runner.checkpoint.sharing",
    "StateComponent": "dcp_runner.checkpoint.component",
    "Topology": "dcp_runner.checkpoint.topology",
}
__all__ = [
    "CheckpointCoordinator",
    "CheckpointError",
    "CheckpointManifest",
    "SharingPattern",
    "StateComponent",
    "Topology",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
