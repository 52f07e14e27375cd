"""The private APIs of Hydra that this project uses, all in this module. Tested with hydra-core 1.3.8.

* `ConfigLoaderImpl`: composing without entering `hydra.main`, which makes the run folder before anything is checked;
  and its `_apply_overrides_to_config` and `get_overrides_dirname`, which set values in a composed configuration.
* `get_args_parser`, `create_automatic_config_search_path`, `detect_calling_file_or_module_from_task_function` and
  `detect_task_name`: reading a command line and finding the configuration files as `hydra.main` does.
* `BasicSweeper.split_arguments`: the jobs of a sweep, in their order.
* `ImportlibResourcesConfigSource`: the base of our config source, which reads YAML files of a package.
* `hydra._internal.hydra.ConfigLoaderImpl`: the name under which `hydra.main` looks up the loader that it makes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hydra._internal import hydra as _hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.core_plugins.importlib_resources_config_source import ImportlibResourcesConfigSource
from hydra._internal.utils import (
    create_automatic_config_search_path,
    detect_calling_file_or_module_from_task_function,
    detect_task_name,
    get_args_parser,
)
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

__all__ = [
    "BasicSweeper",
    "ConfigLoaderImpl",
    "ImportlibResourcesConfigSource",
    "apply_overrides",
    "create_automatic_config_search_path",
    "detect_calling_file_or_module_from_task_function",
    "detect_task_name",
    "get_args_parser",
    "get_overrides_dirname",
    "hydra_main_uses",
]
BASIC_SWEEPER = f"{BasicSweeper.__module__}.{BasicSweeper.__qualname__}"
"""The `_target_` of Hydra's own sweeper."""
_LOADER = "ConfigLoaderImpl"
"""The name in `hydra._internal.hydra`."""


def apply_overrides(overrides: list[Override], cfg: DictConfig) -> None:
    """Set these values in a composed configuration.

    Raises:
        HydraException: as when the configuration is composed.
    """
    ConfigLoaderImpl._apply_overrides_to_config(overrides, cfg)


@contextmanager
def hydra_main_uses(loader: ConfigLoaderImpl) -> Iterator[None]:
    """The next `hydra.main` that is entered composes with this loader; one inside the program itself does not."""

    def once(config_search_path: ConfigSearchPath) -> ConfigLoaderImpl:
        setattr(_hydra, _LOADER, ConfigLoaderImpl)
        return loader

    setattr(_hydra, _LOADER, once)
    try:
        yield
    finally:
        setattr(_hydra, _LOADER, ConfigLoaderImpl)
