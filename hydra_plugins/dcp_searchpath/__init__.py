"""Puts our config groups on the search path of every Hydra app of this environment: `defaults: [parallel: ddp]`.

Hydra imports this module in each of those apps, so nothing slow may be imported here, and the types of our groups are
made when one is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult
from hydra.plugins.search_path_plugin import SearchPathPlugin

from dcp_runner.launch.preflight.hydra_private import ImportlibResourcesConfigSource

if TYPE_CHECKING:
    from omegaconf import DictConfig

__all__ = ["DcpSearchPath", "DcpSource"]
LAUNCHER = "hydra/launcher"
TYPED = ("base_", "dcp_")
"""What the names of configs begin with that are made from dataclasses."""


class DcpSearchPath(SearchPathPlugin):
    """Appends our groups, so that an app's own group of the same name comes first."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append(provider="dcp_runner", path="dcp://dcp_runner.conf")


class DcpSource(ImportlibResourcesConfigSource):
    """Our YAML files, and beside them the types of our groups and launchers."""

    @staticmethod
    def scheme() -> str:
        return "dcp"

    def load_config(self, config_path: str) -> ConfigResult:
        node = _typed(config_path)
        if node is None:
            return super().load_config(config_path)
        return ConfigResult(config=node, path=f"dcp://{self.path}", provider=self.provider, header={"package": None})

    def is_config(self, config_path: str) -> bool:
        return _typed(config_path) is not None or super().is_config(config_path)

    def is_group(self, config_path: str) -> bool:
        return config_path == LAUNCHER or super().is_group(config_path)

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        if config_path != LAUNCHER:
            return super().list(config_path, results_filter)
        return [] if results_filter is ObjectType.GROUP else ["dcp_local", "dcp_slurm"]


def _typed(path: str) -> DictConfig | None:
    path = path.removesuffix(".yaml")
    if not path.rpartition("/")[2].startswith(TYPED):
        return None
    from omegaconf import OmegaConf

    from dcp_runner.config.schema import schemas
    from hydra_plugins.dcp_launcher._config import LAUNCHERS

    if path in LAUNCHERS:
        node: DictConfig = OmegaConf.structured(LAUNCHERS[path])
        if "additional_parameters" in node:
            OmegaConf.set_struct(node.additional_parameters, False)
        return node
    schema = schemas().get(path)
    return None if schema is None else schema.copy()
