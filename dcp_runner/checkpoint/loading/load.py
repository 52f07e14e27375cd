"""A load: nothing is changed before every rank has read and checked everything.

1. find      (rank 0) choose the folder, check the manifest and that all files are there; (all) get the manifest
2. compare   (all) open the files of what is wanted, and list everything that does not fit, without reading tensors
3. read      (all) read and check what is wanted, and each rank its share of the files that nobody reads
4. apply     (all) hand the states to their objects
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dcp_runner.checkpoint.bind import BoundComponent
from dcp_runner.checkpoint.config import Check
from dcp_runner.checkpoint.errors import CheckpointError, IntegrityError, MismatchError
from dcp_runner.checkpoint.files.catalog import advice, resolve_checkpoint
from dcp_runner.checkpoint.files.integrity import check_files, check_whole, parse_manifest
from dcp_runner.checkpoint.files.manifest import CheckpointManifest
from dcp_runner.checkpoint.files.storage import Storage
from dcp_runner.checkpoint.loading.pending import PendingLoad, open_component, selected_copies
from dcp_runner.checkpoint.stateful import SupportsReset
from dcp_runner.checkpoint.sync.comm import Comm
from dcp_runner.common.suggest import hint

log = logging.getLogger("dcp_runner.checkpoint")
SHOWN = 8
"""Names in a message."""


@dataclass(frozen=True)
class ComponentLoadRow:
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
    rows: tuple[ComponentLoadRow, ...]
    notes: tuple[str, ...] = ()
    """What the objects make do with; with strict=False also what was missing or unexpected."""

    @property
    def step(self) -> int:
        return self.manifest.step


def load(
    bound: Sequence[BoundComponent],
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
    `apply`; for a damaged checkpoint it names the next valid one.
    """
    with chosen(comm, storage, which, best) as (folder, manifest, unlisted):
        if unlisted and comm.rank == 0:
            more = f" and {len(unlisted) - SHOWN} more" if len(unlisted) > SHOWN else ""
            names = ", ".join(unlisted[:SHOWN]) + more
            log.warning("%s: not listed in its manifest, and so not read: %s", folder.name, names)
        opened = ExitStack()
        try:
            pending, notes = comm.agree(
                "compare", lambda: _compare(bound, folder, manifest, opened, strict=strict, skip=skip, fresh=fresh)
            )
            comm.agree("read", lambda: _read(pending, comm, folder, manifest, check, opened))
        finally:
            with suppress(OSError):  # after a success all is closed already; after a failure it is that which matters
                opened.close()
    try:
        comm.agree("apply", lambda: _apply(pending, manifest.step, comm.rank))
    except CheckpointError as error:
        mixed = "\n  some objects may hold the saved state, and others not: load again before going on"
        raise CheckpointError(error.phase, error.failures, error.alive, mixed) from error
    rows = tuple(_row(one, manifest) for one in pending)
    return LoadReport(folder, manifest, rows, tuple(notes))


@contextmanager
def chosen(
    comm: Comm, storage: Storage, which: int | str | Path, best: tuple[str, Literal["min", "max"]]
) -> Iterator[tuple[Path, CheckpointManifest, Sequence[str]]]:
    """The checkpoint that `which` names: its folder, its manifest, and the paths in it that the manifest does not list.

    Raises CheckpointError; where the checkpoint is damaged, as may be found out inside the block, the text names the
    next valid one.
    """

    def choose() -> list[Any]:
        found = resolve_checkpoint(storage, which, *best)
        whole = check_whole(found)
        return [str(found), whole.data.decode(), whole.unlisted]

    folder: Path | None = None
    try:
        name, text, unlisted = comm.on_rank_0("find", choose)
        folder = Path(name)
        yield folder, parse_manifest(text.encode()), unlisted
    except CheckpointError as error:
        if error.types != {"IntegrityError"}:
            raise
        instead = comm.on_rank_0("find", lambda: advice(storage, which, *best, folder))
        raise CheckpointError(error.phase, error.failures, error.alive, instead) from error


def _compare(
    bound: Sequence[BoundComponent],
    folder: Path,
    manifest: CheckpointManifest,
    stack: ExitStack,
    *,
    strict: bool,
    skip: Collection[str],
    fresh: Collection[str],
) -> tuple[list[PendingLoad], list[str]]:
    keys = [one.key for one in bound]
    problems = [
        f"cannot leave out {hint(key, keys)}: no component has this name" for key in (*skip, *fresh) if key not in keys
    ]
    dropped = {key: record.required for key, record in manifest.components.items() if key not in keys}
    notes = [
        f"the checkpoint has a component {hint(key, keys)} that nothing here takes (leave it with strict=False)"
        for key, required in dropped.items()
        if required
    ]
    accepted = [f"{key} is not here: its state is dropped" for key, required in dropped.items() if not required]
    pending = []
    for one in bound:
        try:
            pending.append(_open(one, folder, manifest, stack, skip, fresh))
            found, unreadable = pending[-1].differences(), pending[-1].unreadable()
        except IntegrityError:
            raise
        except ValueError as error:
            problems.append(f"component {one.key!r}: {error}")
            continue
        accepted += [f"{one.key}: {line}" for line in found.accepted]
        notes += [f"{one.key}: missing in the checkpoint: {line}" for line in found.missing]
        notes += [f"{one.key}: unexpected in the checkpoint: {line}" for line in found.unexpected]
        problems += [f"{one.key}: {line}" for line in (*found.mismatched, *unreadable)]
    if problems or (strict and notes):
        told = "".join(f"\n    {line}" for line in (*problems, *(notes if strict else ())))
        raise MismatchError(f"{folder.name} does not fit:{told}")
    return pending, accepted + notes


def _open(
    one: BoundComponent,
    folder: Path,
    manifest: CheckpointManifest,
    stack: ExitStack,
    skip: Collection[str],
    fresh: Collection[str],
) -> PendingLoad:
    if one.key in skip:
        return PendingLoad(one, "left as it is (skipped)")
    if one.key not in manifest.components:
        if one.component.required:
            raise ValueError(f"component {hint(one.key, manifest.components)} is not in the checkpoint")
        return PendingLoad(one, "left as it is (not in the checkpoint)")
    return PendingLoad(one, "fresh") if one.key in fresh else open_component(one, folder, manifest, stack)


def _read(
    pending: Sequence[PendingLoad],
    comm: Comm,
    folder: Path,
    manifest: CheckpointManifest,
    check: Check,
    stack: ExitStack,
) -> None:
    """Read and check, and close what was opened: a file system may tell of an error only then."""
    for one in pending:
        one.read(comm.rank / comm.world_size)
    if check is Check.all:
        opened = {file.name: file for one in pending if one.source for file in one.source.files}
        mine = [name for name, rank in _checkers(pending, manifest, comm.world_size).items() if rank == comm.rank]
        for name in mine:
            if name in opened:
                opened[name].check()
        check_files(folder, manifest, [name for name in mine if name not in opened])
    stack.close()


def _checkers(pending: Sequence[PendingLoad], manifest: CheckpointManifest, world_size: int) -> dict[str, int]:
    """Which rank sees to it that all of a file is checked: one that reads it anyway, or else they take turns."""
    checkers = {name: number % world_size for number, name in enumerate(sorted(manifest.files))}
    for one in pending:
        if one.source is not None:
            first = {copy.name: copy.holders[0] for copy in one.bound.copies}
            for copy, files in reversed(selected_copies(one.bound, manifest).items()):
                checkers |= dict.fromkeys(files, first[copy])
    return checkers


def _apply(pending: Sequence[PendingLoad], step: int, rank: int) -> None:
    for one in pending:
        if one.source is not None:
            one.bound.stateful.load_state_dict(one.state)
        elif one.action == "fresh" and isinstance(one.bound.stateful, SupportsReset):
            one.bound.stateful.reset(step, rank)


def _row(one: PendingLoad, manifest: CheckpointManifest) -> ComponentLoadRow:
    record = manifest.components.get(one.bound.key)
    return ComponentLoadRow(
        one.bound.key, record.sharing if record else "-", str(one.bound.resolved.sharing), one.action
    )
