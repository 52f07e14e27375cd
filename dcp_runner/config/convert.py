"""A configuration from Hydra to typed data, to plain data and back."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, fields, is_dataclass
from difflib import get_close_matches
from enum import Enum
from functools import cache, partial
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dcp_runner.common.errors import ConfigError
from dcp_runner.common.settings import settings
from dcp_runner.config.schema import RunConfig


def load(cfg: DictConfig) -> RunConfig:
    """Turn what Hydra composed into typed data. A foreign app may have keys of its own beside ours.

    Raises:
        ConfigError: values that are missing, of a wrong type or cannot be resolved; keys that do not exist.
    """
    plain = plain_values(cfg)
    if OmegaConf.get_type(cfg) is not RunConfig:
        return from_plain(plain)
    return RunConfig(**{name: _value(cfg, name, OmegaConf.to_object) for name in plain})


def plain_values(cfg: DictConfig) -> dict[str, Any]:
    """Our part of what Hydra composed, its interpolations resolved, ready for JSON.

    Raises:
        ConfigError: values that are missing or cannot be resolved; keys that do not exist.
    """
    names = [str(key) for key in cfg if key != "hydra"]
    if OmegaConf.get_type(cfg) is not RunConfig:
        known = {group.name for group in fields(RunConfig)}
        names = [name for name in names if name in known or get_close_matches(name, known, 1, 0.8)]
    try:
        plain = {name: _value(cfg, name, partial(OmegaConf.to_container, resolve=True)) for name in names}
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {_first_line(error)}") from error
    problems = [f"{path}: a value is required (found `???`)" for path, value in _leaves(plain) if value == "???"]
    problems = problems or list(_unknown_keys(RunConfig(), plain))
    if problems:
        raise ConfigError(*problems)
    return cast(dict[str, Any], _plain(plain))


def _value(cfg: DictConfig, name: str, convert: Callable[[Any], Any]) -> Any:
    if OmegaConf.is_missing(cfg, name):
        return "???"
    value = cfg[name]
    return convert(value) if OmegaConf.is_config(value) else value


def to_plain(config: RunConfig) -> dict[str, Any]:
    """The configuration as dicts, lists and scalars, ready for JSON; `from_plain` is the way back."""
    return cast(dict[str, Any], _plain(asdict(config)))


def from_plain(plain: Mapping[str, Any]) -> RunConfig:
    """Typed data from dicts, lists and scalars; keys that are not given have their defaults.

    Raises:
        ConfigError: unknown keys, each with the nearest known one; a value of a wrong type.
    """
    unknown = list(_unknown_keys(RunConfig(), plain))
    if unknown:
        raise ConfigError(*unknown)
    try:
        merged = OmegaConf.merge(OmegaConf.structured(RunConfig), OmegaConf.create(literal(dict(plain))))
        return cast(RunConfig, OmegaConf.to_object(merged))
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {_first_line(error)}") from error


def config_hash(config: RunConfig) -> str:
    """A digest of everything that shapes the training; not of what the run is called or how it was started."""
    plain = {key: value for key, value in to_plain(config).items() if key in hashed_keys()}
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:32]


@cache
def hashed_keys() -> frozenset[str]:
    """The groups and keys at the top that shape the training."""
    top = (entry for entry in settings(RunConfig()) if "." not in entry.key)
    return frozenset(entry.key for entry in top if entry.facts.hashed and not entry.facts.start_only)


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in inner:
        yield from _leaves(value, f"{path}.{key}" if path else str(key))
    if not isinstance(node, (dict, list)):
        yield path, node


def _first_line(error: OmegaConfBaseException) -> str:
    return str(error).splitlines()[0]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value.value if isinstance(value, Enum) else value


def literal(value: Any) -> Any:
    """Resolved text may hold `${`; it is not an interpolation any more."""
    if isinstance(value, dict):
        return {key: literal(item) for key, item in value.items()}
    if isinstance(value, list):
        return [literal(item) for item in value]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value


def _unknown_keys(schema: Any, plain: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Keys below typed nodes that their dataclass lacks. OmegaConf takes `+trainer.x=1` and drops it silently."""
    known = {entry.name: getattr(schema, entry.name) for entry in fields(schema)}
    for key, value in plain.items():
        where = f"{path}{key}"
        if key not in known:
            near = get_close_matches(key, known, n=1)
            yield f"{where}: no such key; " + (
                f"did you mean `{path}{near[0]}`?" if near else f"known: {', '.join(known)}"
            )
        elif is_dataclass(known[key]) and isinstance(value, Mapping):
            yield from _unknown_keys(known[key], value, f"{where}.")
