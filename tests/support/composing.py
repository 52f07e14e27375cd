"""Our configuration, composed in this process."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

from hydra import initialize_config_module
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict

from dcp_runner.config.convert import from_plain, load, to_plain
from dcp_runner.config.schema import RunConfig
from dcp_runner.launch.preflight.resolve import resolve_degrees


@contextmanager
def our_loader() -> Iterator[ConfigLoader]:
    """Hydra's loader over our config groups."""
    with initialize_config_module("dcp_runner.conf", version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


@cache
def kept_loader() -> ConfigLoader:
    """One for all."""
    with our_loader() as loader:
        return loader


def composed(*overrides: str) -> DictConfig:
    cfg = kept_loader().load_configuration("config", list(overrides), RunMode.RUN)
    with open_dict(cfg):
        del cfg["hydra"]
    return cfg


def config(*overrides: str) -> RunConfig:
    """Composed, typed, its degrees resolved."""
    made = load(composed(*overrides))
    made.parallel = resolve_degrees(made.parallel, made.resources)
    return made


@cache
def _default() -> str:
    return json.dumps(to_plain(config("name=x")))


def changed(values: Mapping[str, Any]) -> RunConfig:
    """The default run with some values changed, by dotted key."""
    plain = json.loads(_default())
    for key, value in values.items():
        *path, last = key.split(".")
        node = plain
        for part in path:
            node = node[part]
        node[last] = value
    return from_plain(plain)
