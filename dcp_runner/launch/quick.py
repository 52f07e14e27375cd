"""Composing the jobs of a sweep: Hydra composes each of them twice, from its files on. Jobs that differ in plain values
only are composed once here, and copied.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Sequence
from typing import cast

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig


class QuickLoader:
    """`load_sweep_config` of a loader, with the same outcome. What was composed for a look is kept for the launcher."""

    def __init__(self, loader: ConfigLoaderImpl) -> None:
        self._loader = loader
        self._compose = loader.load_sweep_config
        self._bases: dict[tuple[str, ...], DictConfig] = {}
        self._looked_at: dict[tuple[str, ...], DictConfig] = {}

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: Sequence[str]) -> DictConfig:
        lines = tuple(sweep_overrides)
        if lines in self._looked_at:
            return self._looked_at.pop(lines)
        parsed = OverridesParser.create().parse_overrides(list(lines))
        plain = [override for override in parsed if self._is_plain(override)]
        shape = tuple(str(override.input_line) for override in parsed if not self._is_plain(override))
        if len({override.key_or_group for override in parsed}) < len(parsed):  # then their order matters
            return self._compose(master_config, list(lines))
        if shape not in self._bases:
            self._bases[shape] = self._compose(master_config, list(shape))
        cfg = copy.deepcopy(self._bases[shape])
        ConfigLoaderImpl._apply_overrides_to_config(plain, cfg)
        task = [override for override in parsed if not override.is_hydra_override()]
        style = cfg.hydra.job.config.override_dirname
        cfg.hydra.overrides.task = [override.input_line for override in task]
        cfg.hydra.job.override_dirname = get_overrides_dirname(
            overrides=task, kv_sep=style.kv_sep, item_sep=style.item_sep, exclude_keys=style.exclude_keys
        )
        self._looked_at[lines] = cfg
        return cfg

    def _is_plain(self, override: Override) -> bool:
        """It sets a value that is there, and chooses no files."""
        is_group = self._loader.repository.group_exists(override.key_or_group)
        changes = override.type is OverrideType.CHANGE and override.package is None
        return changes and not is_group and not override.is_hydra_override()


def quicken(loader: ConfigLoader) -> None:
    """Let this loader compose the jobs of a sweep as QuickLoader does, and hold the garbage collector off until
    `gc.enable()`: it would look through all configurations that are kept, again and again, and find nothing.
    """
    gc.disable()
    if isinstance(loader, ConfigLoaderImpl):
        loader.load_sweep_config = cast(ConfigLoaderImpl, QuickLoader(loader)).load_sweep_config  # type: ignore[method-assign]
