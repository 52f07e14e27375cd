"""Composing many jobs: Hydra composes each of them from its files on, and those of a sweep twice. Jobs that differ in
plain values only are composed once here, and copied.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from functools import partial

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig

from dcp_runner.common.gc_pause import gc_paused

Compose = Callable[[list[str]], DictConfig]
"""From overrides to a configuration."""


class CachedComposer:
    """Does what `compose` of this loader does, with the same outcome."""

    def __init__(self, compose: Compose, loader: ConfigLoaderImpl) -> None:
        self._compose, self._groups = compose, loader.repository
        self._bases: dict[tuple[str, ...], bytes] = {}
        """Pickled, which makes a copy in a tenth of the time that `deepcopy` takes."""

    def __call__(self, lines: Sequence[str]) -> DictConfig:
        parsed = OverridesParser.create().parse_overrides(list(lines))
        plain = [override for override in parsed if self._is_plain(override)]
        shape = tuple(str(override.input_line) for override in parsed if not self._is_plain(override))
        if len({override.key_or_group for override in parsed}) < len(parsed):  # then their order matters
            return self._compose(list(lines))
        if shape not in self._bases:
            self._bases[shape] = pickle.dumps(self._compose(list(shape)))
        cfg: DictConfig = pickle.loads(self._bases[shape])
        ConfigLoaderImpl._apply_overrides_to_config(plain, cfg)
        task = [override for override in parsed if not override.is_hydra_override()]
        style = cfg.hydra.job.config.override_dirname
        cfg.hydra.overrides.task = [override.input_line for override in task]
        cfg.hydra.job.override_dirname = get_overrides_dirname(
            overrides=task, kv_sep=style.kv_sep, item_sep=style.item_sep, exclude_keys=style.exclude_keys
        )
        return cfg

    def _is_plain(self, override: Override) -> bool:
        """It sets a value that is there, and chooses no files."""
        is_group = self._groups.group_exists(override.key_or_group)
        changes = override.type is OverrideType.CHANGE and override.package is None
        return changes and not is_group and not override.is_hydra_override()


def composer(loader: ConfigLoader, compose: Compose) -> Compose:
    """A quick one, where the loader is Hydra's own."""
    return CachedComposer(compose, loader) if isinstance(loader, ConfigLoaderImpl) else compose


def cache_composition(loader: ConfigLoader) -> None:
    """Let this loader compose the jobs of a sweep quickly, and keep each that was composed for a look for the launcher.
    The garbage collector is paused meanwhile: it would look through all of them, again and again, and find nothing.
    """
    compose = loader.load_sweep_config
    quick: dict[int, Compose] = {}
    looked_at: dict[tuple[str, ...], DictConfig] = {}

    def load_sweep_config(master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        lines = tuple(sweep_overrides)
        if lines in looked_at:
            return looked_at.pop(lines)
        of_this_sweep = quick.setdefault(id(master_config), composer(loader, partial(compose, master_config)))
        with gc_paused():
            return looked_at.setdefault(lines, of_this_sweep(list(lines)))

    loader.load_sweep_config = load_sweep_config  # type: ignore[method-assign]
