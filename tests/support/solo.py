"""One rank alone: a Stateful that holds anything, a coordinator for it, and exact comparison of states and files."""

from __future__ import annotations

import ctypes
import json
import struct
from collections import deque
from collections.abc import Iterator
from enum import Enum
from io import BytesIO
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from dcp_runner import CheckpointCoordinator, StateComponent, Topology
from dcp_runner.checkpoint.loading.load import LoadReport
from dcp_runner.common.run_context import RunContext
from dcp_runner.run.resume import ResumeRequest
from dcp_runner.run.start import start_or_resume
from dcp_runner.train.progress import Progress


class Box:
    """A Stateful that holds any state."""

    def __init__(self, state: Any = None) -> None:
        self.state = state

    def state_dict(self) -> Any:
        return self.state

    def load_state_dict(self, state: Any) -> None:
        self.state = state


def alone(folder: Path, *components: StateComponent, **options: Any) -> CheckpointCoordinator:
    """A coordinator of one rank."""
    return CheckpointCoordinator(components, Topology(1), folder, **options)


def boxed(folder: Path, state: Any = None, **options: Any) -> tuple[Box, CheckpointCoordinator]:
    """A Box as the component `box`, and its coordinator."""
    box = Box(state)
    return box, alone(folder, StateComponent("box", box), **options)


def resume(wish: ResumeRequest, coordinator: CheckpointCoordinator) -> LoadReport | None:
    """Load and retire as the start of a run does, in a run folder without a name."""
    run = RunContext(coordinator.storage.root, 1, 0, 1, 0, 1, "hash", {}, dated=True)
    return start_or_resume(wish, run, coordinator, Progress(), 1_000_000).loaded


def visible(folder: Path) -> list[str]:
    """Names in a folder of checkpoints, but for the claim of it and the run's id."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith((".owner-", ".run")))


def round_trip(folder: Path, state: Any, live: Any = None) -> Any:
    """Save a state, load it into a box that holds `live`; all JSON on the way must be strict."""
    box, coordinator = boxed(folder, state)
    path = coordinator.save(1)
    assert list(strict_json(path))
    box.state = live
    coordinator.load(1)
    return box.state


def bits(value: Any) -> Any:
    """Equal for two states only if kinds, order of keys and every bit are. It shares no code with the core."""
    kind = type(value).__qualname__
    if isinstance(value, torch.Tensor):
        plain = value.detach().resolve_conj().resolve_neg()
        data = torch.empty(plain.shape, dtype=plain.dtype).copy_(plain)
        return "tensor", value.dtype, tuple(value.shape), ctypes.string_at(data.data_ptr(), data.nbytes)
    if isinstance(value, np.ndarray | np.generic):
        return kind, value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, float):
        return kind, struct.pack(">d", value)
    if isinstance(value, Enum):
        return type(value), value
    if isinstance(value, dict):
        aside = bits(getattr(value, "_metadata", None)), getattr(value, "default_factory", None)
        return kind, aside, [(bits(key), bits(item)) for key, item in value.items()]
    if isinstance(value, MappingProxyType):
        return kind, bits(dict(value))
    if isinstance(value, list | tuple | deque):
        return kind, getattr(value, "maxlen", None), [bits(item) for item in value]
    if isinstance(value, set | frozenset):
        return kind, sorted(repr(bits(item)) for item in value)
    if isinstance(value, BytesIO):
        return kind, value.getvalue()
    if isinstance(value, complex):
        return kind, bits(value.real), bits(value.imag)
    return kind, value if isinstance(value, int) else repr(value)


def strict_json(folder: Path) -> Iterator[Any]:
    """Every JSON text in a checkpoint, parsed as strictly as the standard says."""
    for path in sorted(folder.rglob("*.json")):
        yield strictly(path.read_bytes())
    for path in sorted(folder.rglob("*.safetensors")):
        header = header_of(path)
        yield strictly(header)
        yield strictly(json.loads(header)["__metadata__"]["dcp_runner"])


def header_of(path: Path) -> bytes:
    """The JSON header of a safetensors file."""
    data = path.read_bytes()
    return data[8 : 8 + int.from_bytes(data[:8], "little")]


def stored_names(path: Path) -> list[str]:
    """Names of the tensors in a safetensors file."""
    return [name for name in json.loads(header_of(path)) if name != "__metadata__"]


def strictly(text: bytes | str) -> Any:
    def constant(word: str) -> Any:
        raise AssertionError(f"{word} is not JSON")

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in items]
        assert len(set(keys)) == len(keys), f"doubled keys in {keys}"
        return dict(items)

    (text if isinstance(text, str) else text.decode()).encode("utf-8")
    return json.loads(text, parse_constant=constant, object_pairs_hook=pairs)
