"""What our messages advise is itself accepted."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from composing import changed, our_loader
from hydra.core.config_loader import ConfigLoader
from hydra.types import RunMode
from omegaconf import OmegaConf
from test_build_checks import TARGETS
from test_config_checks import DDP4, MISTAKES
from test_overrides import ONE

from dcp_runner.launch.preflight.advice import SPELLINGS, flag_problems
from dcp_runner.launch.preflight.build_checks import check_targets
from dcp_runner.launch.preflight.compose_cache import ComposeOnce
from dcp_runner.launch.preflight.config_checks import check_config
from dcp_runner.launch.preflight.overrides import examine

FLAGS = {
    "--save-steps=5": "as `checkpoint.every_steps=5`",
    "--resume": "as `resume=VALUE`",
    "--lr=0.1": "did you mean `optim.lr`?",
    "--optimizer=adam": "as `optim=VALUE`",
    "--epochs=3": "as `trainer.max_steps=VALUE`",
    "--num-train-epochs=3": "as `trainer.max_steps=VALUE`",
    "--max_step=3": "did you mean `trainer.max_steps`?",
    "--batch-size=8": "did you mean `data.batch_size`?",
    "--trainer.max_steps=9": "as `trainer.max_steps=9`",
    "--parallel=dp": "as `parallel=VALUE`",
    "-n": "no key `n`; known: name, ",
}
MORE = [
    "seed=1,2",
    "model.heads=[1,2],[3]",
    "optim.lr=x,y",
    "hydra.run.dri=x",
    "checkpoint=x",
    "experiment=dem",
    "nonsense=1",
    "a.b.c=1",
]


@pytest.fixture(scope="module")
def loader() -> ConfigLoader:
    with our_loader() as made:
        return ComposeOnce(made.get_search_path())


def advised(text: str) -> Iterator[str]:
    """Overrides and keys that a message names as what to write."""
    yield from re.findall(r"(?:did you mean|here it is|a list is|keys are given without dashes, as) `([^`]+)`", text)
    yield from re.findall(r"(?:remove \+ prefix:|override '[^']*':) '([^']+)'", text)


def assert_accepted(loader: ConfigLoader, line: str, advice: str) -> None:
    cfg = loader.load_configuration("config", [], RunMode.RUN)
    keys, groups = advice.removesuffix("=VALUE"), loader.list_groups("")
    if "=" in keys:
        assert examine(loader, "config", [advice], multirun=False).problems == [], advice
    elif line.partition("=")[0] in groups and advice in loader.get_group_options(line.partition("=")[0]):
        loader.load_configuration("config", [f"{line.partition('=')[0]}={advice}"], RunMode.RUN)
    else:
        parent, _, last = keys.rpartition(".")
        assert keys in groups or last in (OmegaConf.select(cfg, parent) if parent else cfg), advice


@pytest.mark.parametrize("flag", FLAGS)
def test_a_flag_is_answered_with_what_can_be_written(loader: ConfigLoader, flag: str) -> None:
    (text,) = flag_problems(loader, "config", [flag])
    assert text.startswith(f"{flag}: no such flag") and FLAGS[flag] in text
    for advice in advised(text):
        assert_accepted(loader, flag.lstrip("-"), advice)


@pytest.mark.slow
@pytest.mark.parametrize("line", [*ONE, *MORE])
def test_advice_about_an_override_is_accepted(loader: ConfigLoader, line: str) -> None:
    texts = examine(loader, "config", [line], multirun=False).problems
    assert texts
    for text in texts:
        for advice in advised(text):
            assert_accepted(loader, line, advice)
        if "known: " in text:
            names = text.partition("known: ")[2].split(", ")
            assert len(names) == len(set(names))


def mended(key: str, value: Any, text: str) -> tuple[str, Any]:
    """The mistake with what its message advises in place of what it quotes."""
    (advice,) = advised(text)
    quoted = re.search(r"(?:no component|no mesh axis|no key) '([^']+)'", text)
    bad = quoted.group(1) if quoted else str(value)
    if isinstance(value, list):
        return key, [item.replace(bad, advice) for item in value]
    return key.replace(bad, advice), value.replace(bad, advice)


@pytest.mark.parametrize(("key", "value", "told"), [case for case in MISTAKES if "did you mean" in case[2]])
def test_advice_about_a_value_is_accepted(key: str, value: Any, told: str) -> None:
    (text,) = check_config(changed(DDP4 | {key: value}), exists=lambda _: False)
    key, value = mended(key, value, text)
    assert check_config(changed(DDP4 | {key: value}), exists=lambda _: False) == []


def test_no_advice_that_would_be_refused() -> None:
    (text,) = check_config(changed({"resume_override": ["trainer.max_step"]}))
    assert "max_steps" not in text
    (text,) = check_config(changed({"resume_override": ["model.width"], "optim": {"_target_": "x.Y", "rate": 1}}))
    assert "as `optim.rate`" in text


@pytest.mark.parametrize(("key", "value", "told"), [case for case in TARGETS if isinstance(case[1], str)])
def test_advice_about_a_target_is_accepted(key: str, value: str, told: str) -> None:
    for text in check_targets(changed({key: value})):
        for advice in advised(text):
            assert not [again for again in check_targets(changed({key: advice})) if again.startswith(key)]


def test_every_spelling_leads_to_a_key_or_a_group() -> None:
    with our_loader() as loader:
        cfg = examine(loader, "config", [], multirun=False).jobs[0]
    for spelling, key in SPELLINGS.items():
        node = cfg
        for part in key.split("."):
            assert part in node, f"{spelling} -> {key}"
            node = node[part]
