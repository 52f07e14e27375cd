"""Puts our config groups on the search path of every Hydra app of this environment: `defaults: [parallel: ddp]`.

Hydra imports this module in each of those apps, so nothing slow may be imported here.
"""

from __future__ import annotations

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from dcp_runner.config import register_schemas

__all__ = ["DcpSearchPath"]


class DcpSearchPath(SearchPathPlugin):
    """Appends our groups, so that an app's own group of the same name comes first."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        register_schemas()
        search_path.append(provider="dcp_runner", path="pkg://dcp_runner.conf")
