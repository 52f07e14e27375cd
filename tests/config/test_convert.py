"""The configuration as data: what composes, what is typed, what survives the way to a rank, what the digest covers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from composing import composed, config, our_loader
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from omegaconf import OmegaConf

from dcp_runner.common.errors import ConfigError
from dcp_runner.config.convert import config_hash, from_plain, load, to_plain
from dcp_runner.config.schema import ResumeRng, RunConfig
from dcp_runner.launch.preflight.build_checks import check_targets
from dcp_runner.launch.preflight.config_checks import check_config
from dcp_runner.launch.preflight.trial_build import trial_build

CONF = Path(__file__).parents[2] / "conf"
GROUPS = {
    folder.name: sorted(path.stem for path in folder.glob("*.yaml"))
    for folder in CONF.iterdir()
    if folder.is_dir() and folder.name not in ("hydra", "__pycache__")
}


@pytest.mark.parametrize("turn", range(max(len(options) for options in GROUPS.values())))
def test_every_option_makes_a_run_without_problems(turn: int) -> None:
    """In each turn every group takes its next option, until all had theirs."""
    made = config(*(f"{group}={options[turn % len(options)]}" for group, options in GROUPS.items()))
    assert check_config(made) == []
    assert check_targets(made) == trial_build(replace(made, sharing={})).problems == []


def test_the_table_of_contents_names_every_group() -> None:
    text = (CONF / "config.yaml").read_text()
    assert [group for group in GROUPS if f"- {group}: " not in text] == []


def test_experiment_and_debug_override_what_stands_above_them() -> None:
    made = config("experiment=demo", "debug=tiny")
    assert (made.parallel.dp, made.model["width"], made.trainer.max_steps) == (2, 32, 20)


def test_values_are_typed() -> None:
    made = config("resume=500", "resume_rng=reseed", "checkpoint.keep.last=3", "data.eval=null")
    assert (made.resume, made.resume_rng, made.checkpoint.keep.last, made.data.eval) == (500, ResumeRng.reseed, 3, None)
    assert config("resume=best").resume == "best"


def test_open_nodes_take_new_keys_with_and_without_a_plus() -> None:
    nodes = ("optim", "model", "loss", "data.train", "data.eval", "parallel.options", "callbacks", "logger.trackers")
    typed = ("sharing.ema=per_rank", "+sharing.mine=global", "checkpoint.validation_for.model=quick")
    made = composed(*(f"{node}.new=1" for node in nodes), *(f"+{node}.newer=1" for node in nodes), *typed)
    assert made.data.eval.new == made.optim.newer == 1
    assert composed("parallel.plan.first.wte=pass").parallel.plan.first == {"wte": "pass"}
    with pytest.raises(ConfigCompositionException):
        composed("checkpoint.validation_for.model=quickly")


def test_several_trackers_at_once() -> None:
    made = config(
        "logger=tensorboard", "logger.trackers.wandb={_target_: dcp_runner.train.trackers.Wandb, mode: offline}"
    )
    assert list(made.logger.trackers) == ["tensorboard", "wandb"] and config().logger.trackers == {}
    assert check_targets(made) == trial_build(made).problems == []


@pytest.mark.parametrize("override", ["x=1", "checkpoint.keep.x=1"])
def test_everything_else_is_closed(override: str) -> None:
    with pytest.raises(ConfigCompositionException):
        composed(override)
    with pytest.raises(ConfigError, match=r"x: no such key"):
        load(composed(f"+{override}"))


def test_unknown_keys_are_told_with_the_nearest_known_one() -> None:
    with pytest.raises(ConfigError) as error:
        load(composed("+trainer.max_step=1", "+checkpoint.keep.lst=2", "+traner.x=1"))
    assert sorted(error.value.problems) == [
        "checkpoint.keep.lst: no such key; did you mean `checkpoint.keep.last`?",
        "trainer.max_step: no such key; did you mean `trainer.max_steps`?",
        "traner: no such key; did you mean `trainer`?",
    ]


def test_missing_and_unresolvable_values_are_told() -> None:
    with pytest.raises(ConfigError, match=r"model\._target_: a value is required"):
        load(OmegaConf.create({"model": {"_target_": "???"}}))
    with pytest.raises(ConfigError, match="not_there"):
        load(OmegaConf.create({"model": {"_target_": "${not_there}"}}))
    with pytest.raises(ConfigError, match=r"trainer.max_steps: .*'many'"):
        load(OmegaConf.create({"trainer": {"max_steps": "many"}}))


def test_a_foreign_app_keeps_its_own_keys_unless_they_look_like_ours() -> None:
    assert load(OmegaConf.create({"corpus": "x", "seed": 3})).seed == 3
    with pytest.raises(ConfigError, match="did you mean `trainer`"):
        load(OmegaConf.create({"trainr": {"max_steps": 3}}))


def test_round_trip_through_json() -> None:
    made = config("experiment=demo", "resume=500", "model.text='\\${no} interpolation'", "callbacks.a={b: [1, null]}")
    again = from_plain(json.loads(json.dumps(to_plain(made), allow_nan=False)))
    assert again == made
    assert to_plain(again) == to_plain(made)


@pytest.mark.parametrize("text", ["${x}", r"\${x}", r"\\${x}", "$", "${oc.env:HOME}", "a${b}c"])
def test_resolved_text_is_never_resolved_again(text: str) -> None:
    plain = to_plain(RunConfig(name="n", model={"text": text}))
    assert from_plain(plain).model["text"] == text


def test_the_digest_covers_what_shapes_the_training() -> None:
    plain = to_plain(RunConfig(name="a"))
    first = config_hash(from_plain(plain))
    reordered = dict(reversed(plain.items())) | {"checkpoint": dict(reversed(plain["checkpoint"].items()))}
    assert config_hash(from_plain(reordered)) == first
    same = {"name": "b", "dry_run": True, "resume": "best", "resume_skip": ["rng"], "resume_override": ["optim.lr"]}
    assert config_hash(from_plain(plain | same)) == first
    assert config_hash(from_plain(plain | {"seed": 1})) != first
    assert config_hash(from_plain(plain | {"optim": {"lr": 1}})) != first


def test_the_folders_hydra_makes() -> None:
    with our_loader() as loader:
        first, second = (loader.load_configuration("config", [], RunMode.RUN) for _ in range(2))
        assert first.hydra.run.dir != second.hydra.run.dir, "two runs within a second"
        named = loader.load_configuration("config", ["name=exp1", "optim.lr=1"], RunMode.MULTIRUN)
    assert named.hydra.run.dir == "outputs/exp1"
    assert "=" not in named.hydra.sweep.dir
    assert OmegaConf.to_container(named.hydra.sweep, resolve=False)["subdir"] == "${hydra.job.num}"
    assert (named.hydra.output_subdir, named.hydra.job.chdir, named.hydra.job_logging.root.handlers) == (
        None,
        False,
        [],
    )
