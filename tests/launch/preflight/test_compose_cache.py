"""Jobs composed from one base are what Hydra composes from its files, down to types and flags."""

from __future__ import annotations

from typing import Any

import pytest
from composing import our_loader
from hydra.core.config_loader import ConfigLoader
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import Container, OmegaConf
from omegaconf.base import Node

from dcp_runner.launch.preflight.compose_cache import cache_composition, composer

SWEEP = [
    ["optim.lr=0.1", "seed=3", "name=a b"],
    ["parallel=dp_pp", "optim.lr=0.3", "model.layers=3"],
    ["seed=5", "seed=6"],
    ["+callbacks.mine={_target_: x.Y}", "~optim.lr", "trainer.max_steps=7"],
    ["resume=best", "checkpoint.keep.last=9", "hydra.job.name=mine", "seed=9"],
    ["trainer.max_steps=${seed}", "seed=10"],
    ["data.eval=null", "model={_target_: x.Z}"],
]
WRONG = [
    ["sed=1"],
    ["seed=1", "trainer.max_steps=many"],
    ["optim.lr=1", "checkpoint.validation=loud"],
    ["parallel=nope"],
]


@pytest.fixture(scope="module")
def loader() -> ConfigLoader:
    with our_loader() as made:
        return made


def facts(node: Any, path: str = "") -> dict[str, Any]:
    """Of every node its value as it stands, its type and its flags."""
    found: dict[str, Any] = {}
    if isinstance(node, Container):
        kind = (OmegaConf.get_type(node), node._metadata.ref_type, node._metadata.object_type)
        found[path] = (kind, dict(node._metadata.flags or {}), node._is_none(), node._is_missing())
        content = node.__dict__["_content"]
        items = (
            content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
        )
        for key, child in items:
            found |= facts(child, f"{path}.{key}")
    elif isinstance(node, Node):
        found[path] = (type(node), node._metadata.ref_type, node._value(), dict(node._metadata.flags or {}))
    return found


@pytest.mark.parametrize("lines", SWEEP, ids=" ".join)
def test_a_job_is_what_hydra_composes(loader: ConfigLoader, lines: list[str]) -> None:
    def compose(lines: list[str]) -> Any:
        return loader.load_configuration("config", lines, RunMode.RUN)

    quick, expected = composer(loader, compose), facts(compose(lines))
    for _ in range(2):  # the second time from the base of the first
        assert facts(quick(lines)) == expected


def test_a_sweep_composes_one_base_for_each_shape_and_keeps_what_was_looked_at() -> None:
    with our_loader() as loader:
        pass
    master = loader.load_configuration("config", ["hydra.sweep.dir=s"], RunMode.MULTIRUN)
    compose, calls = loader.load_sweep_config, []

    def counted(master: Any, lines: list[str]) -> Any:
        calls.append(lines)
        return compose(master, lines)

    loader.load_sweep_config = counted  # type: ignore[method-assign]
    cache_composition(loader)
    for seed in range(3):
        lines = ["parallel=ddp", f"seed={seed}"]
        looked = loader.load_sweep_config(master, lines)
        assert loader.load_sweep_config(master, lines) is looked
        assert facts(looked) == facts(compose(master, lines))
        assert loader.load_sweep_config(master, lines) is not looked, "a third one may change its own"
    assert calls == [["parallel=ddp"]]


@pytest.mark.parametrize("lines", WRONG, ids=" ".join)
def test_a_mistake_is_told_as_hydra_tells_it(loader: ConfigLoader, lines: list[str]) -> None:
    def compose(lines: list[str]) -> Any:
        return loader.load_configuration("config", lines, RunMode.RUN)

    said = []
    for way in (compose, composer(loader, compose)):
        with pytest.raises(HydraException) as failure:
            way(lines)
        said.append((type(failure.value), str(failure.value)))
    assert said[0] == said[1]
