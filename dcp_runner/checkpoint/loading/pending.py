"""Before a load: where this rank's state of a component is in a checkpoint, and whether it fits. Reads headers only."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from dcp_runner.checkpoint.bind import BoundComponent
from dcp_runner.checkpoint.files.integrity import open_copy
from dcp_runner.checkpoint.files.manifest import CheckpointManifest, ComponentRecord, CopyRecord
from dcp_runner.checkpoint.loading.copy_choice import choose_copies
from dcp_runner.checkpoint.loading.tensor_reader import TensorReader
from dcp_runner.checkpoint.state.dtensor import is_dtensor
from dcp_runner.checkpoint.state.like_model import FindReference, like_live, like_models
from dcp_runner.checkpoint.state.merge import merge, select
from dcp_runner.checkpoint.state.treespec import Json
from dcp_runner.checkpoint.state.unflatten import unflatten, unflatten_for_diff
from dcp_runner.checkpoint.stateful import Reshardable, StateDiff, SupportsDiff, SupportsSelection


@dataclass
class PendingLoad:
    """A component between reading and applying; without a source it is not read."""

    bound: BoundComponent
    action: str
    source: TensorReader | None = None
    skeleton: Json = None
    layout: Any = None
    """What stands where the saved tensors will stand; they are cut alike."""
    place: FindReference = like_live
    state: Any = None

    def differences(self) -> StateDiff:
        """How the saved state differs from the live one, without reading tensors."""
        stateful, source = self.bound.stateful, self.source
        if source is None or not isinstance(stateful, SupportsDiff):
            return StateDiff()
        return stateful.differences(
            unflatten_for_diff(self.skeleton, lambda name, _: source.abstract(name), self.layout)
        )

    def unreadable(self) -> list[str]:
        """What this rank takes, and cannot read."""
        if self.source is None:
            return []
        problems = (self.source.problem(name, live) for name, live in self._tensors)
        return [problem for problem in problems if problem]

    def read(self, turn: float) -> None:
        """Read and check the tensors in the order of the files.

        `turn`, from 0 to below 1, says where to begin: where each rank begins elsewhere, each brings another part from
        the disk into the memory of their node.
        """
        if self.source is not None:
            wanted = sorted(self._tensors, key=lambda one: self.source.place(one[0]) if self.source else (0, 0))
            first = int(turn * len(wanted))
            for name, live in (*wanted[first:], *wanted[:first]):
                self.source.read(name, live)
            self.state = unflatten(self._taken(), self._read, self.layout)

    @property
    def cut(self) -> bool:
        """Whether it was saved in parts, or is held in parts here."""
        return self.source is not None and (
            bool(self.source.cut()) or any(is_dtensor(like) for _, like in self._tensors)
        )

    def _read(self, name: str, live: Any) -> torch.Tensor:
        assert self.source is not None
        return self.source.read(name, self._like(name, live))

    def _like(self, name: str, live: Any) -> Any:
        """The value that this tensor is to be cut like."""
        assert self.source is not None
        return self.place(name, self.source.abstract(name).shape, live)

    @cached_property
    def _tensors(self) -> list[tuple[str, Any]]:
        """Names of the tensors that this rank takes, with the values that they are to be cut like."""
        found: list[tuple[str, Any]] = []

        def note(name: str, live: Any) -> torch.Tensor:
            found.append((name, self._like(name, live)))
            return torch.empty(0, device="meta")

        unflatten(self._taken(), note, self.layout)
        return found

    def _taken(self) -> Json:
        stateful = self.bound.stateful
        return select(self.skeleton, stateful.accepts()) if isinstance(stateful, SupportsSelection) else self.skeleton


def open_component(one: BoundComponent, folder: Path, manifest: CheckpointManifest, stack: ExitStack) -> PendingLoad:
    """Find where this rank's state of a component is.

    Raises ValueError where the checkpoint has other copies than are wanted, which cannot be re-cut.
    """
    if isinstance(one.stateful, Reshardable):
        empty = PendingLoad(one, "", layout=one.stateful.target_layout())
        return _recut(empty, one, folder, manifest, stack)
    record = manifest.components[one.key]
    files = record.copies.get(one.own_copy.name, _last(record)).files
    source = TensorReader(open_copy(folder, manifest, files, stack))
    seen = PendingLoad(one, "", source, source.skeletons()[0], one.stateful.state_dict())
    if not all(isinstance(live, torch.Tensor) for _, live in seen._tensors):
        models = [(model, _cut(model.key, folder, manifest)) for model in one.models]
        seen = replace(seen, place=like_models(models, _cut(one.key, folder, manifest)))
    if not seen.cut:
        return _by_policy(seen, folder, manifest, stack)
    as_saved = one.as_saved(record.sharing) if dict(manifest.axes) == one.topology.mesh else one
    return _recut(seen, as_saved, folder, manifest, stack)


def _cut(key: str, folder: Path, manifest: CheckpointManifest) -> frozenset[str]:
    """Names of the tensors of a component that were saved in parts."""
    if key not in manifest.components:
        return frozenset()
    with ExitStack() as stack:
        return TensorReader(open_copy(folder, manifest, _last(manifest.components[key]).files, stack)).cut()


def _last(record: ComponentRecord) -> CopyRecord:
    """The copy in which all that is in parts is seen to be so: the first may hold all of what is too small to cut."""
    return [*record.copies.values()][-1]


def _recut(
    empty: PendingLoad, saved: BoundComponent, folder: Path, manifest: CheckpointManifest, stack: ExitStack
) -> PendingLoad:
    """From this rank's own copy, where there is one of the same cut; else from what all copies have together.

    `saved` is the component as it is shared in the checkpoint, if that is of this topology.
    """
    one, record = empty.bound, manifest.components[empty.bound.key]
    alone = None
    own = matching_copies(saved, manifest).get(saved.own_copy.name)
    if own:
        source = TensorReader(open_copy(folder, manifest, own, stack))
        alone = replace(empty, action="loaded", source=source, skeleton=source.skeletons()[0])
        if alone.unreadable():
            for copy in saved.wider_copies():
                source.add(open_copy(folder, manifest, record.copies[copy.name].files, stack))
        if not alone.differences().missing and not alone.unreadable():
            return alone
    everything = [name for copy in record.copies.values() for name in copy.files]
    source = TensorReader(open_copy(folder, manifest, everything, stack))
    try:
        skeleton = merge(source.skeletons())
        if names := source.conflicts():
            raise ValueError(f"its copies hold different values of {', '.join(names[:4])}")
    except ValueError as error:
        return alone or _by_policy(empty, folder, manifest, stack, f"{error}; ")
    uncut = len(record.copies) == len(one.copies) == 1
    action = "loaded" if own or uncut else f"re-cut from {len(record.copies)} to {len(one.copies)} copies"
    return replace(empty, action=action, source=source, skeleton=skeleton)


def matching_copies(one: BoundComponent, manifest: CheckpointManifest) -> dict[str, tuple[str, ...]]:
    """Copy -> its files, for the saved copies that the same ranks have written in the same topology and sharing."""
    record = manifest.components[one.key]
    if record.sharing != str(one.resolved.sharing) or dict(manifest.axes) != one.topology.mesh:
        return {}
    return {name: copy.files for name, copy in record.copies.items()}


def selected_copies(one: BoundComponent, manifest: CheckpointManifest) -> dict[str, tuple[str, ...]]:
    """Live copy -> files that its holders read whole; those of a re-cut component are not among them."""
    if isinstance(one.stateful, Reshardable):
        return matching_copies(one, manifest)
    copies = manifest.components[one.key].copies
    try:
        chosen = choose_copies(list(copies), [copy.name for copy in one.copies], one.component.on_missing_copy)
    except ValueError:
        return {}  # a load that has come this far re-cuts them
    return {name: copies[source.copy].files for name, source in chosen.items() if source.copy is not None}


def _by_policy(
    empty: PendingLoad, folder: Path, manifest: CheckpointManifest, stack: ExitStack, why: str = ""
) -> PendingLoad:
    one, copies = empty.bound, manifest.components[empty.bound.key].copies
    try:
        chosen = choose_copies(list(copies), [copy.name for copy in one.copies], one.component.on_missing_copy)
    except ValueError as error:
        raise ValueError(f"{why}{error}") from error
    source_of_mine = chosen[one.own_copy.name]
    if source_of_mine.copy is None:
        return PendingLoad(one, source_of_mine.action)
    source, files = empty.source, copies[source_of_mine.copy].files
    if source is None or tuple(file.name for file in source.files) != files:
        source = TensorReader(open_copy(folder, manifest, files, stack))
    return replace(empty, action=source_of_mine.action, source=source, skeleton=source.skeletons()[0])
