"""The manifest of a save, from the records of all ranks."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import torch

from dcp_runner.checkpoint.bind import BoundComponent
from dcp_runner.checkpoint.files.manifest import CheckpointManifest, ComponentRecord, CopyRecord, FileRecord
from dcp_runner.checkpoint.saving.request import SaveRequest
from dcp_runner.checkpoint.state.treespec import Json
from dcp_runner.checkpoint.topology import Topology
from dcp_runner.common.version import __version__


class Stopwatch:
    """Seconds that each phase has taken, by its name."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name] = round(now - self._last, 4)
        self._last = now


def build_manifest(
    bound: Sequence[BoundComponent],
    topology: Topology,
    request: SaveRequest,
    records: Sequence[dict[str, Json]],
    others: Mapping[str, FileRecord],
    seconds: Mapping[str, float],
) -> CheckpointManifest:
    """The manifest of a save: `records` are those of each rank's parts by path, `others` those of all other files."""
    parts = {path: record for of_rank in records for path, record in of_rank.items()}
    return CheckpointManifest(
        step=request.step,
        attempt=request.attempt,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        world_size=topology.world_size,
        axes=topology.mesh,
        nodes=tuple(tuple(node) for node in topology.nodes or ()),
        components={component.key: _component(component, parts) for component in bound},
        files={path: FileRecord(record["size"], record["digest"]) for path, record in parts.items()} | dict(others),
        metrics=request.metrics,
        config=request.config,
        origin=request.origin,
        versions=_versions(),
        seconds=seconds,
    )


def _component(bound: BoundComponent, files: Mapping[str, Json]) -> ComponentRecord:
    own = {path: record for path, record in sorted(files.items()) if record["component"] == bound.key}
    copies = {}
    for copy in bound.copies:
        paths = [path for path, record in own.items() if record["copy"] == copy.name]
        copies[copy.name] = CopyRecord(copy.holders, tuple(own[path]["writer"] for path in paths), tuple(paths))
    return ComponentRecord(
        sharing=str(bound.resolved.sharing),
        reason=bound.resolved.reason,
        validation=bound.validation.value if bound.compares_values else "none",
        bytes=sum(record["bytes"] for record in own.values()),
        copies=copies,
        metadata=dict(bound.component.metadata),
        required=bound.component.required,
    )


def _versions() -> dict[str, Any]:
    return {"dcp_runner": __version__, "torch": torch.__version__, "python": platform.python_version()}
