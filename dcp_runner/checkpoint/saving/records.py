"""What the manifest says of a save."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import torch

from dcp_runner.checkpoint.bind import BoundComponent
from dcp_runner.checkpoint.files.manifest import CheckpointManifest, ComponentRecord, CopyRecord, FileRecord
from dcp_runner.checkpoint.state.treespec import Json
from dcp_runner.checkpoint.topology import Topology


class Stopwatch:
    """Seconds since the last lap, by name of the phase."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name] = round(now - self._last, 4)
        self._last = now


def _manifest(
    bound: Sequence[BoundComponent],
    topology: Topology,
    gathered: Sequence[dict[str, Json]],
    watch: Stopwatch,
    step: int,
    attempt: str,
    metrics: Mapping[str, float],
    config: str,
    origin: Mapping[str, Json],
) -> CheckpointManifest:
    files = {path: record for records in gathered for path, record in records.items()}
    return CheckpointManifest(
        step=step,
        attempt=attempt,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        world_size=topology.world_size,
        axes=topology.mesh,
        nodes=tuple(tuple(node) for node in topology.nodes or ()),
        components={one.key: _component(one, files) for one in bound},
        files={path: FileRecord(record["size"], record["digest"]) for path, record in files.items()},
        metrics={name: float(value) for name, value in metrics.items()},
        config=config,
        origin=origin,
        versions=_versions(),
        seconds=watch.laps,
    )


def _component(one: BoundComponent, files: Mapping[str, Json]) -> ComponentRecord:
    own = {path: record for path, record in sorted(files.items()) if record["component"] == one.key}
    copies = {}
    for copy in one.copies:
        paths = [path for path, record in own.items() if record["copy"] == copy.name]
        copies[copy.name] = CopyRecord(copy.holders, tuple(own[path]["writer"] for path in paths), tuple(paths))
    return ComponentRecord(
        sharing=str(one.resolved.sharing),
        reason=one.resolved.reason,
        validation=one.validation.value if one.compares_values else "none",
        bytes=sum(record["bytes"] for record in own.values()),
        copies=copies,
        metadata=dict(one.component.metadata),
        required=one.component.required,
    )


def _versions() -> dict[str, Any]:
    from dcp_runner import __version__

    return {"dcp_runner": __version__, "torch": torch.__version__, "python": platform.python_version()}
