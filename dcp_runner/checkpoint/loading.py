"""A load: nothing is changed before every rank has read and checked everything.

1. find      (rank 0) choose the folder, check the manifest and the list of files; (all) get the manifest
2. compare   (all) open the files of the own copies, and list everything that does not fit, without reading tensors
3. read      (all) read and check the own copies, and each rank its share of the files that nobody reads
4. apply     (all) hand the states to their objects
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from dcp_runner.checkpoint.bind import Bound
from dcp_runner.checkpoint.comm import Comm
from dcp_runner.checkpoint.component import Comparing, Refreshing
from dcp_runner.checkpoint.config import Check
from dcp_runner.checkpoint.errors import MismatchError
from dcp_runner.checkpoint.live import hint
from dcp_runner.checkpoint.manifest import CheckpointManifest
from dcp_runner.checkpoint.plan import Source, sources
from dcp_runner.checkpoint.reading import check_files, check_whole, find, open_copy, parse_manifest, read_manifest
from dcp_runner.checkpoint.storage import Storage
from dcp_runner.checkpoint.tensorfile import TensorFile
from dcp_runner.checkpoint.tree import Json
from dcp_runner.checkpoint.untree import tensor_paths, unflatten


@dataclass(frozen=True)
class Row:
    """What happened to one component: how it was shared when saved, how it is now, and what was done."""

    component: str
    saved: str
    here: str
    action: str


@dataclass(frozen=True)
class LoadReport:
    """What a load did."""

    path: Path
    manifest: CheckpointManifest
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    """With strict=False, what was missing or unexpected."""

    @property
    def step(self) -> int:
        return self.manifest.step


@dataclass
class Pending:
    """A component between reading and applying."""

    bound: Bound
    action: str
    skeleton: Json = None
    files: list[TensorFile] = field(default_factory=list)
    state: Any = None

    def where(self) -> dict[str, TensorFile]:
        """Tensor name -> its file."""
        return {name: file for file in self.files for name in file.tensors}


def load(
    bound: Sequence[Bound],
    comm: Comm,
    storage: Storage,
    which: int | str | Path,
    *,
    best: tuple[str, Literal["min", "max"]],
    strict: bool,
    skip: Collection[str],
    fresh: Collection[str],
    check: Check,
) -> LoadReport:
    """Load all components. Raises CheckpointError on all living ranks, before any object is changed unless in phase
    `apply`.
    """

    def choose() -> list[str]:
        folder = find(storage, which, *best)
        check_whole(folder)
        return [str(folder), read_manifest(folder).decode()]

    chosen = comm.from_first("find", choose)
    folder, manifest = Path(chosen[0]), parse_manifest(chosen[1].encode())
    with ExitStack() as stack:
        pending, notes = comm.agree(
            "compare", lambda: _compare(bound, folder, manifest, stack, strict=strict, skip=skip, fresh=fresh)
        )
        comm.agree("read", lambda: _read(pending, bound, comm, folder, manifest, check))
    comm.agree("apply", lambda: _apply(pending, manifest.step, comm.rank))
    rows = tuple(_row(one, manifest) for one in pending)
    return LoadReport(folder, manifest, rows, tuple(notes))


def _compare(
    bound: Sequence[Bound],
    folder: Path,
    manifest: CheckpointManifest,
    stack: ExitStack,
    *,
    strict: bool,
    skip: Collection[str],
    fresh: Collection[str],
) -> tuple[list[Pending], list[str]]:
    keys = [one.key for one in bound]
    problems = [
        f"cannot leave out {hint(key, keys)}: no component has this name" for key in (*skip, *fresh) if key not in keys
    ]
    notes = [
        f"the checkpoint has a component {hint(key, keys)} that nothing here takes (leave it with strict=False)"
        for key in manifest.components
        if key not in keys
    ]
    pending = []
    for one in bound:
        if one.key in skip:
            pending.append(Pending(one, "left as it is (skipped)"))
        elif one.key not in manifest.components:
            pending.append(Pending(one, "left as it is (not in the checkpoint)"))
            if one.component.required:
                problems.append(f"component {hint(one.key, manifest.components)} is not in the checkpoint")
        else:
            _open(one, folder, manifest, stack, one.key in fresh, pending, problems, notes)
    if problems or (strict and notes):
        told = "".join(f"\n    {line}" for line in (*problems, *(notes if strict else ())))
        raise MismatchError(f"{folder.name} does not fit:{told}")
    return pending, notes


def _open(
    one: Bound,
    folder: Path,
    manifest: CheckpointManifest,
    stack: ExitStack,
    fresh: bool,
    pending: list[Pending],
    problems: list[str],
    notes: list[str],
) -> None:
    """Open the files of this rank's copy of one component and compare without reading tensors."""
    record = manifest.components[one.key]
    try:
        source = Source(None, "fresh") if fresh else _sources(one, record.copies)[one.mine.name]
    except ValueError as error:
        problems.append(f"component {one.key!r}: {error}")
        return
    new = Pending(one, source.action)
    pending.append(new)
    if source.copy is None:
        return
    new.files = open_copy(folder, manifest, record.copies[source.copy].files, stack)
    new.skeleton = new.files[0].about["tree"]
    where = new.where()
    lost = [name for _, name in tensor_paths(new.skeleton) if name not in where]
    problems += [f"component {one.key!r}: tensor {name!r} is in none of its files" for name in lost]
    live = one.stateful.state_dict()
    if lost or not isinstance(one.stateful, Comparing):
        return
    abstract = {name: _meta(file, name) for name, file in where.items()}
    found = one.stateful.differences(unflatten(new.skeleton, abstract.__getitem__, live))
    notes += [f"{one.key}: missing in the checkpoint: {line}" for line in found.missing]
    notes += [f"{one.key}: unexpected in the checkpoint: {line}" for line in found.unexpected]
    problems += [f"{one.key}: {line}" for line in found.wrong]


def _sources(one: Bound, saved: Collection[str]) -> dict[str, Source]:
    return sources(list(saved), [copy.name for copy in one.copies], one.component.on_missing_copy)


def _meta(file: TensorFile, name: str) -> torch.Tensor:
    stored = file.tensors[name]
    return torch.empty(stored.shape, dtype=stored.dtype, device="meta")


def _read(
    pending: Sequence[Pending],
    bound: Sequence[Bound],
    comm: Comm,
    folder: Path,
    manifest: CheckpointManifest,
    check: Check,
) -> None:
    for one in pending:
        if one.files:
            where = one.where()
            tensors = {name: file.read(name) for name, file in where.items()}
            one.state = unflatten(one.skeleton, tensors.__getitem__, one.bound.stateful.state_dict())
    if check is Check.all:
        unread = sorted(set(manifest.files) - _read_by_anyone(pending, manifest))
        check_files(folder, manifest, unread[comm.rank :: comm.world_size])


def _read_by_anyone(pending: Sequence[Pending], manifest: CheckpointManifest) -> set[str]:
    """Files that some rank reads whole; the same on every rank."""
    files: set[str] = set()
    for one in pending:
        if one.files:
            copies = manifest.components[one.bound.key].copies
            used = {source.copy for source in _sources(one.bound, copies).values()}
            files.update(name for copy in used if copy is not None for name in copies[copy].files)
    return files


def _apply(pending: Sequence[Pending], step: int, rank: int) -> None:
    for one in pending:
        if one.files:
            one.bound.stateful.load_state_dict(one.state)
        elif one.action == "fresh" and isinstance(one.bound.stateful, Refreshing):
            one.bound.stateful.start_fresh(step, rank)


def _row(one: Pending, manifest: CheckpointManifest) -> Row:
    record = manifest.components.get(one.bound.key)
    return Row(one.bound.key, record.sharing if record else "-", str(one.bound.resolved.sharing), one.action)
