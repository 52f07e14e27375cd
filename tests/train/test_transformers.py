"""The example with a model that is not ours: every topology trains it as one rank does, by the plan in its YAML."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import safe_open

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "transformers_app"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
pytest.importorskip("transformers")


def start(folder: Path, *overrides: str) -> list[tuple[float, ...]]:
    """Losses and gradient norms of a run of the example, as a user starts it."""
    small = ["trainer.max_steps=3", "trainer.eval_every=null", "data.batch_size=8", "name=run", "logger.progress=false"]
    command = ["-m", "dcp_runner", "--config-dir", str(EXAMPLE / "conf"), "experiment=llama", *small, *overrides]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{EXAMPLE}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    return told(folder)


def told(folder: Path) -> list[tuple[float, ...]]:
    lines = [json.loads(line) for line in (folder / "outputs/run/metrics.jsonl").read_text().splitlines()]
    return [(line["loss"], line["grad_norm"]) for line in lines if "grad_norm" in line]


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("single")
    start(folder, "parallel=single", "checkpoint.every_steps=null")
    return folder


def test_its_weights_have_the_names_of_transformers(one_rank: Path) -> None:
    with safe_open(one_rank / "outputs/run/checkpoints/checkpoint-3/model.safetensors", "pt") as file:
        assert "model.layers.3.self_attn.q_proj.weight" in file.keys()  # noqa: SIM118


def test_same_as_one_rank(one_rank: Path, tmp_path: Path) -> None:
    found = start(tmp_path, "parallel=dp_pp_tp", "parallel.dp=1", "checkpoint=off")
    assert [value for step in found for value in step] == pytest.approx(
        [value for step in told(one_rank) for value in step], rel=2e-5
    )
    assert len(found) == 3


def test_tied_weights_are_refused_before_a_rank_starts(tmp_path: Path) -> None:
    with pytest.raises(AssertionError) as error:
        start(tmp_path, "parallel=pipeline", "model.tie_word_embeddings=true")
    assert "untie them (model.tied=false; for transformers models tie_word_embeddings=false)" in str(error.value)
