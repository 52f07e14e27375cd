"""The manifest: readable, without a path of this machine, and every byte of it covered by its own digest."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from solo import Box, alone, strictly

from dcp_runner import CheckpointManifest, StateComponent
from dcp_runner.checkpoint.digest import hash_bytes
from dcp_runner.checkpoint.errors import IntegrityError
from dcp_runner.checkpoint.files.manifest import ComponentRecord, CopyRecord, FileRecord
from dcp_runner.checkpoint.files.storage import MANIFEST


def example(
    step: int = 500, metrics: dict[str, float] | None = None, attempt: str = "7", note: str = ""
) -> CheckpointManifest:
    files = {f"model/pp-{stage}.safetensors": FileRecord(2**40 + stage, f"{stage:032x}") for stage in range(2)}
    copies = {
        f"pp-{stage}": CopyRecord((stage, stage + 2), (stage,), (f"model/pp-{stage}.safetensors",))
        for stage in range(2)
    }
    return CheckpointManifest(
        step=step,
        attempt=attempt,
        created="2026-01-01T00:00:00+00:00",
        world_size=4,
        axes={"dp": 2, "pp": 2},
        nodes=((0, 1), (2, 3)),
        components={"model": ComponentRecord("per_group:dp", "stages", "tensor", 2**41, copies, {"note": note})},
        files=files,
        metrics=metrics or {},
        config="abc",
        versions={"torch": "2.13"},
        seconds={"plan": 0.5},
    )


@given(
    st.integers(0, 2**62),
    st.dictionaries(st.text(max_size=3), st.floats() | st.integers(-(2**60), 2**60), max_size=3),
    st.text(max_size=5),
    st.sampled_from(["", "0" * 32, '"digest": "' + "0" * 32, "é"]),
)
def test_it_comes_back_as_it_was(step: int, metrics: dict[str, float], attempt: str, note: str) -> None:
    manifest = example(step, metrics, attempt, note)
    data = manifest.render(hash_bytes)
    strictly(data)
    assert repr(CheckpointManifest.parse(data, hash_bytes)) == repr(manifest)  # NaN is not equal to itself


def test_every_flipped_bit_is_found() -> None:
    data = example(metrics={"eval_loss": 1.5}).render(hash_bytes)
    for place in range(len(data)):
        for bit in range(8):
            altered = bytearray(data)
            altered[place] ^= 1 << bit
            with pytest.raises(IntegrityError, match=MANIFEST):
                CheckpointManifest.parse(bytes(altered), hash_bytes)


@pytest.mark.parametrize("data", [b"", b"{}", b"null", b"\xff" * 100, b'{\n  "digest": "'])
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError, match=MANIFEST):
        CheckpointManifest.parse(data, hash_bytes)


def test_the_file_of_a_real_checkpoint(tmp_path: Path) -> None:
    components = [
        StateComponent("box", Box({"a": 1}), metadata={"unit": "samples"}),
        StateComponent("own", Box({}), "per_rank", validation_level="full"),
    ]
    coordinator = alone(tmp_path / "here", *components, attempt=3, config="c0ffee")
    path = coordinator.save(12, {"eval_loss": 2.5, "accuracy": 1})
    data = (path / MANIFEST).read_bytes()
    plain = strictly(data)
    assert data.decode("ascii").count("\n") > 30, "one value a line, for people"
    assert list(plain)[:3] == ["digest", "format", "step"]
    assert plain["digest"] == hash_bytes(data.replace(plain["digest"].encode(), b"0" * 32, 1))
    assert {
        key: plain[key] for key in ("format", "step", "attempt", "world_size", "axes", "nodes", "config", "metrics")
    } == {
        "format": 1,
        "step": 12,
        "attempt": "3",
        "world_size": 1,
        "axes": {"dp": 1},
        "nodes": ["0"],
        "config": "c0ffee",
        "metrics": {"eval_loss": 2.5, "accuracy": 1},
    }
    assert set(plain["versions"]) == {"dcp_runner", "torch", "python"} and set(plain["seconds"]) >= {
        "plan",
        "stage",
        "verify",
        "write",
    }
    assert plain["files"].keys() == {"box.safetensors", "own/rank-00000.safetensors"}
    assert all(record["size"] == (path / name).stat().st_size for name, record in plain["files"].items())
    assert plain["components"]["box"]["metadata"] == {"unit": "samples"} and plain["components"]["box"]["reason"]
    assert plain["components"]["own"]["copies"] == {
        "rank-00000": {"holders": "0", "writers": "0", "files": ["own/rank-00000.safetensors"]}
    }
    for file in path.rglob("*"):
        assert file.is_dir() or str(tmp_path).encode() not in file.read_bytes(), "no path of this machine"
    assert re.search(r'"/', data.decode()) is None
    assert coordinator.list()[12].components["box"].sharing == "replicated"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_metric_that_is_no_number_does_not_stop_a_save(value: float, tmp_path: Path) -> None:
    coordinator = alone(tmp_path, StateComponent("box", Box({})))
    path = coordinator.save(1, {"eval_loss": value, "loss": 1.0})
    assert strictly((path / MANIFEST).read_bytes())["metrics"] == {"eval_loss": str(value), "loss": 1.0}
    assert str(coordinator.list()[1].metrics["eval_loss"]) == str(value)
