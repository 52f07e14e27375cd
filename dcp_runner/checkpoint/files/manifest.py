"""The manifest: what a checkpoint holds, who held it, and the digest of every file. Plain JSON, to be read with jq.

Its first field is the digest of its own exact bytes with that field's value zeroed, so a changed byte anywhere is
detected. No path in it is used to find a file: a checkpoint can be moved or copied.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from dcp_runner.checkpoint.errors import IntegrityError, NewerFormatError
from dcp_runner.common.ranks import rank_text, ranks_of

FORMAT = 1
ZERO = "0" * 32
_HEAD = '{\n  "digest": "'


@dataclass(frozen=True)
class FileRecord:
    """Size in bytes, and digest: of a tensor file's header (which holds those of the data), of other files in full."""

    size: int
    digest: str


@dataclass(frozen=True)
class CopyRecord:
    """One copy: the ranks that held it, those that wrote it, and its files in order of their parts."""

    holders: tuple[int, ...]
    writers: tuple[int, ...]
    files: tuple[str, ...]


@dataclass(frozen=True)
class ComponentRecord:
    """One component: how it was shared and why, how it was checked, its bytes (each copy once) and its copies by
    name.
    """

    sharing: str
    reason: str
    validation: str
    bytes: int
    copies: Mapping[str, CopyRecord]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    required: bool = True
    """False: a run that has no such component drops its state; only False is written."""


@dataclass(frozen=True)
class CheckpointManifest:
    """Everything that is known about a checkpoint without opening another file."""

    step: int
    attempt: str
    created: str
    world_size: int
    axes: Mapping[str, int]
    nodes: tuple[tuple[int, ...], ...]
    components: Mapping[str, ComponentRecord]
    files: Mapping[str, FileRecord]
    metrics: Mapping[str, float] = field(default_factory=dict)
    """As given to `save`; a value that is not finite is written as text, because JSON has no NaN."""
    config: str = ""
    """Hash of the run's configuration."""
    origin: Mapping[str, Any] = field(default_factory=dict)
    """`run`: the run's id; `job`: the scheduler's job that saved it; `beginning`: the checkpoint of another run that
    this run started from; `launched`: the configuration of the start that saved it. Each where there is one.
    """
    versions: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Seconds that each phase of the save took on rank 0."""
    format: int = FORMAT

    def render(self, hash_bytes: Callable[[bytes], str]) -> bytes:
        """The bytes of the manifest's file."""
        plain = {
            "digest": ZERO,
            "format": self.format,
            "step": self.step,
            "attempt": self.attempt,
            "created": self.created,
            "config": self.config,
            "origin": dict(self.origin),
            "metrics": {k: v if math.isfinite(v) else str(v) for k, v in self.metrics.items()},
            "versions": dict(self.versions),
            "world_size": self.world_size,
            "axes": dict(self.axes),
            "nodes": [rank_text(node) for node in self.nodes],
            "seconds": dict(self.seconds),
            "components": {key: _component(record) for key, record in self.components.items()},
            "files": {name: record.__dict__ for name, record in sorted(self.files.items())},
        }
        text = json.dumps(plain, indent=2, allow_nan=False).encode() + b"\n"
        return text.replace(ZERO.encode(), hash_bytes(text).encode(), 1)

    @classmethod
    def parse(
        cls, data: bytes, hash_bytes: Callable[[bytes], str], name: str = "checkpoint_manifest.json"
    ) -> CheckpointManifest:
        """The inverse of `render`; `name` is the file's, for messages.

        Raises IntegrityError for altered bytes and for file names that lead out of the checkpoint or are not listed,
        NewerFormatError.
        """
        start = len(_HEAD)
        digest = data[start : start + len(ZERO)]
        zeroed = data[:start] + ZERO.encode() + data[start + len(ZERO) :]
        if not data.startswith(_HEAD.encode()) or hash_bytes(zeroed).encode() != digest:
            raise IntegrityError(f"{name}: it has changed since it was written")
        plain = json.loads(data)
        if plain["format"] > FORMAT:
            raise NewerFormatError(f"{name}: format {plain['format']} is newer than this version's {FORMAT}")
        for file in plain["files"]:
            if PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts:
                raise IntegrityError(f"{name}: file name {file!r} leads out of the checkpoint")
        for record in plain["components"].values():
            lost = [file for copy in record["copies"].values() for file in copy["files"] if file not in plain["files"]]
            if lost:
                raise IntegrityError(f"{name}: {lost[0]!r} is not in its list of files")
        del plain["digest"]
        plain["nodes"] = tuple(ranks_of(node) for node in plain["nodes"])
        plain["metrics"] = {k: float(v) if isinstance(v, str) else v for k, v in plain["metrics"].items()}
        plain["files"] = {name: FileRecord(**record) for name, record in plain["files"].items()}
        plain["components"] = {key: _component_of(record) for key, record in plain["components"].items()}
        return cls(**plain)


def _component(record: ComponentRecord) -> dict[str, Any]:
    copies = {
        name: {"holders": rank_text(copy.holders), "writers": rank_text(copy.writers), "files": list(copy.files)}
        for name, copy in record.copies.items()
    }
    plain = {**record.__dict__, "copies": copies, "metadata": dict(record.metadata)}
    return {key: value for key, value in plain.items() if key != "required" or not value}


def _component_of(plain: dict[str, Any]) -> ComponentRecord:
    copies = {
        name: CopyRecord(ranks_of(copy["holders"]), ranks_of(copy["writers"]), tuple(copy["files"]))
        for name, copy in plain["copies"].items()
    }
    return ComponentRecord(**{**plain, "copies": copies})
