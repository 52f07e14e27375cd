"""The facts about the keys of the whole configuration. A change here changes hashes, or what a user may write."""

from __future__ import annotations

from dcp_runner.common.settings import settings
from dcp_runner.config.convert import config_hash, hashed_keys
from dcp_runner.config.schema import RunConfig

FACTS = {entry.key: entry.facts for entry in settings(RunConfig())}


def test_the_hashed_keys() -> None:
    assert hashed_keys() == {
        *("seed", "parallel", "sharing", "checkpoint", "model", "loss", "data", "optim", "schedule", "trainer"),
        "callbacks",
    }
    assert config_hash(RunConfig(name="a")) == "4c9802d77a7ec89803f1065e97302f80"


def test_the_keys_that_only_say_how_a_run_is_started() -> None:
    assert {key for key, facts in FACTS.items() if facts.start_only} == {
        *("name", "dry_run", "resume", "resume_skip", "resume_rng", "resume_override", "resume_sweep"),
        "resume_sweep_changed",
    }


def test_the_open_nodes() -> None:
    assert {key for key, facts in FACTS.items() if facts.open} == {
        *("model", "loss", "optim", "data.train", "data.eval", "parallel.options", "parallel.plan.first"),
        *("callbacks", "logger.trackers", "sharing", "checkpoint.validation_for"),
    }


def test_the_bounds() -> None:
    assert {key: facts.at_least for key, facts in FACTS.items() if facts.at_least is not None} == {
        "seed": 0,
        "verify_resume": 0,
        "trainer.max_steps": 1,
        "trainer.eval_every": 1,
        "trainer.eval_samples": 1,
        "trainer.accumulate": 1,
        "data.batch_size": 1,
        "data.workers": 0,
        "schedule.warmup_steps": 0,
        "schedule.min_ratio": 0,
        "schedule.steps": 1,
        "checkpoint.every_steps": 1,
        "checkpoint.keep.last": 1,
        "checkpoint.keep.best": 0,
        "checkpoint.keep.every": 1,
        "checkpoint.keep.retired": 0,
        "logger.every_steps": 1,
        "resources.nodes": 1,
        "resources.tasks_per_node": 1,
        "resources.gpus_per_node": 0,
        "resources.cpus_per_task": 1,
        "resources.time_min": 1,
        "resources.requeues": 0,
    }
    assert {key for key, facts in FACTS.items() if facts.above == 0} == {
        *("checkpoint.every_minutes", "checkpoint.timeout_s", "parallel.timeout_s", "trainer.clip_norm"),
        "resources.mem_gb",
    }
    assert [key for key, facts in FACTS.items() if facts.at_most is not None] == ["schedule.min_ratio"]
