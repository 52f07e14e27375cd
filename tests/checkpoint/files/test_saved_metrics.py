"""Retention asks after every save, and reads only the manifests that it has not read."""

from __future__ import annotations

from pathlib import Path

import pytest
from solo import alone

from dcp_runner import StateComponent
from dcp_runner.checkpoint.coordinator import CheckpointCoordinator
from dcp_runner.checkpoint.files import saved_metrics


class Number:
    value = 1

    def state_dict(self) -> dict[str, int]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.value = state["value"]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the folders whose manifest was read."""
    found: list[str] = []
    read = saved_metrics.read_manifest

    def counted(folder: Path) -> bytes:
        found.append(folder.name)
        return read(folder)

    monkeypatch.setattr(saved_metrics, "read_manifest", counted)
    return found


@pytest.fixture
def coordinator(tmp_path: Path) -> CheckpointCoordinator:
    return alone(tmp_path, StateComponent("number", Number()))


def test_each_manifest_is_read_once(coordinator: CheckpointCoordinator, reads: list[str]) -> None:
    for step in range(1, 5):
        coordinator.save(step, {"loss": 1 / step})
        assert coordinator.metrics() == {done: {"loss": 1 / done} for done in range(1, step + 1)}
    assert reads == [f"checkpoint-{step}" for step in range(1, 5)]


def test_a_step_that_is_saved_anew_is_read_anew(coordinator: CheckpointCoordinator, reads: list[str]) -> None:
    for step in (1, 2):
        coordinator.save(step, {"loss": 1.0})
    coordinator.metrics()
    coordinator.retire_after(1)
    coordinator.save(2, {"loss": 0.5})
    assert coordinator.metrics() == {1: {"loss": 1.0}, 2: {"loss": 0.5}}
    assert reads == ["checkpoint-1", "checkpoint-2", "checkpoint-2"]


def test_what_is_damaged_since_is_left_out(coordinator: CheckpointCoordinator, tmp_path: Path) -> None:
    for step in (1, 2, 3):
        coordinator.save(step, {"loss": 1.0})
    assert [*coordinator.metrics()] == [1, 2, 3]
    next((tmp_path / "checkpoint-1").glob("*.safetensors")).unlink()
    (tmp_path / "checkpoint-2" / "checkpoint_manifest.json").write_text("{}")
    assert [*coordinator.metrics()] == [3]
