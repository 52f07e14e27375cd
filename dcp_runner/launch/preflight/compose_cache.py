"""Composing each command line once. Hydra composes that of a run twice, and the jobs of a sweep twice each; jobs that
differ in plain values only are derived from one composition by copying.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from dcp_runner.launch.preflight.gc_pause import gc_paused
from dcp_runner.launch.preflight.hydra_private import ConfigLoaderImpl, apply_overrides, get_overrides_dirname

Compose = Callable[[list[str]], DictConfig]
"""From overrides to a configuration."""
_MODE = "hydra.mode="
"""What Hydra appends to the overrides of a command, once it knows whether they are a sweep."""


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
        apply_overrides(plain, cfg)
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


class ComposeOnce(ConfigLoaderImpl):
    """Hydra's loader, which hands out what it has composed before as copies that keep the time stamps.

    The first caller has the configuration itself: whatever it resolves is resolved in the copies too.
    """

    def __init__(self, search_path: Any) -> None:
        super().__init__(search_path)
        self._composed: dict[tuple[Any, ...], DictConfig] = {}
        self._jobs: dict[str | None, CachedComposer] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Without what was composed, where it is sent to the jobs of a sweep."""
        return {**self.__dict__, "_composed": {}, "_jobs": {}}

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        cfg = self._copy(config_name, overrides, run_mode)
        if cfg is not None:
            return cfg
        if overrides and overrides[-1].startswith(_MODE):
            cfg = self._copy(config_name, overrides[:-1], run_mode)
        if cfg is None:
            cfg = super().load_configuration(config_name, overrides, run_mode, from_shell, validate_sweep_overrides)
        else:
            apply_overrides(OverridesParser.create().parse_overrides(overrides[-1:]), cfg)
            cfg.hydra.overrides.hydra.append(overrides[-1])
        if validate_sweep_overrides:
            self._composed[config_name, run_mode, *overrides] = cfg
        return cfg

    def _copy(self, config_name: str | None, overrides: list[str], run_mode: RunMode) -> DictConfig | None:
        """What was composed for a run serves for a sweep too: it lacks nothing that Hydra asks of a run."""
        for mode in (RunMode.RUN, run_mode):
            if (cfg := self._composed.get((config_name, mode, *overrides))) is not None:
                copy: DictConfig = pickle.loads(pickle.dumps(cfg))
                return copy
        return None

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        name = master_config.hydra.job.config_name
        compose = self._jobs.setdefault(name, CachedComposer(partial(self._compose_job, name), self))
        of_hydra = OmegaConf.to_container(master_config.hydra.overrides.hydra)
        cfg = compose([*of_hydra, *sweep_overrides])  # type: ignore[misc]
        OmegaConf.copy_cache(from_config=master_config, to_config=cfg)  # time stamps are those of the sweep
        return cfg

    def _compose_job(self, name: str | None, lines: list[str]) -> DictConfig:
        return super().load_configuration(name, lines, RunMode.RUN)


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
