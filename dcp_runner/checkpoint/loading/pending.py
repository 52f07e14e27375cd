"""Where this rank's state of a component is in a checkpoint, and whether it fits. Reads headers only, until `read`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from dcp_runner.checkpoint.bind import BoundComponent
from dcp_runner.checkpoint.files.manifest import CheckpointManifest, ComponentRecord, CopyRecord
from dcp_runner.checkpoint.files.opened import OpenedCheckpoint
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
    """One component on its way from the checkpoint to its object; without a source it is not read."""

    bound: BoundComponent
    action: str
    source: TensorReader | None = None
    skeleton: Json = None
    layout: Any = None
    """The live values in the places of the saved tensors, which are sharded like them."""
    find_reference: FindReference = like_live
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
        """What this rank needs, and cannot read."""
        if self.source is None:
            return []
        problems = (self.source.problem(name, live) for name, live in self._tensors)
        return [problem for problem in problems if problem]

    def read(self, rotation: float) -> None:
        """Read and check the tensors in the order of the files.

        `rotation`, from 0 to below 1, says where to start: where each rank starts elsewhere, each brings another part
        from the disk into the memory of their node.
        """
        if (source := self.source) is not None:
            wanted = sorted(self._tensors, key=lambda tensor: source.position(tensor[0]))
            first = int(rotation * len(wanted))
            for name, live in (*wanted[first:], *wanted[:first]):
                source.read(name, live)
            self.state = unflatten(self._taken(), self._read, self.layout)

    @property
    def has_all_tensors(self) -> bool:
        """Whether the live state has a tensor in the place of each saved one."""
        return all(isinstance(live, torch.Tensor) for _, live in self._tensors)

    @property
    def sharded(self) -> bool:
        """Whether it was saved in parts, or is held in parts here."""
        return self.source is not None and (
            bool(self.source.in_parts()) or any(is_dtensor(like) for _, like in self._tensors)
        )

    def _read(self, name: str, live: Any) -> torch.Tensor:
        assert self.source is not None
        return self.source.read(name, self._like(name, live))

    def _like(self, name: str, live: Any) -> Any:
        """The value that this tensor is to be sharded like."""
        assert self.source is not None
        return self.find_reference(name, self.source.abstract(name).shape, live)

    @cached_property
    def _tensors(self) -> list[tuple[str, Any]]:
        """Names of the tensors that this rank takes, with the values that they are to be sharded like."""
        found: list[tuple[str, Any]] = []

        def record(name: str, live: Any) -> torch.Tensor:
            found.append((name, self._like(name, live)))
            return torch.empty(0, device="meta")

        unflatten(self._taken(), record, self.layout)
        return found

    def _taken(self) -> Json:
        stateful = self.bound.stateful
        return select(self.skeleton, stateful.accepts()) if isinstance(stateful, SupportsSelection) else self.skeleton


def open_component(bound: BoundComponent, checkpoint: OpenedCheckpoint) -> PendingLoad:
    """Find where this rank's state of a component is.

    Raises ValueError where the checkpoint has other copies than are needed, which cannot be resharded.
    """
    if isinstance(bound.stateful, Reshardable):
        empty = PendingLoad(bound, "", layout=bound.stateful.target_layout())
        return _reshard(empty, bound, checkpoint)
    record = checkpoint.manifest.components[bound.key]
    files = record.copies.get(bound.own_copy.name, _last(record)).files
    source = TensorReader(checkpoint.open(files))
    live = PendingLoad(bound, "", source, source.skeletons()[0], bound.stateful.state_dict())
    if not live.has_all_tensors:
        models = [(model, _in_parts(model.key, checkpoint)) for model in bound.models]
        live = replace(live, find_reference=like_models(models, _in_parts(bound.key, checkpoint)))
    if not live.sharded:
        return _by_policy(live, checkpoint)
    same_topology = dict(checkpoint.manifest.axes) == bound.topology.mesh
    return _reshard(live, bound.as_saved(record.sharing) if same_topology else bound, checkpoint)


def _in_parts(key: str, checkpoint: OpenedCheckpoint) -> frozenset[str]:
    """Names of the tensors of a component that were saved in parts."""
    if key not in checkpoint.manifest.components:
        return frozenset()
    files = _last(checkpoint.manifest.components[key]).files
    with OpenedCheckpoint(checkpoint.folder, checkpoint.manifest) as briefly:
        return TensorReader(briefly.open(files)).in_parts()


def _last(record: ComponentRecord) -> CopyRecord:
    """A copy in which everything that was saved in parts is in parts: the first may hold all of what is too small."""
    return [*record.copies.values()][-1]


def _reshard(empty: PendingLoad, saved: BoundComponent, checkpoint: OpenedCheckpoint) -> PendingLoad:
    """From this rank's own copy, where there is one that is sharded alike; else from what all copies hold together.

    `saved` is the component as it is shared in the checkpoint, if that is of this topology.
    """
    bound, record = empty.bound, checkpoint.manifest.components[empty.bound.key]
    from_own = None
    own = matching_copies(saved, checkpoint.manifest).get(saved.own_copy.name)
    if own:
        source = TensorReader(checkpoint.open(own))
        from_own = replace(empty, action="loaded", source=source, skeleton=source.skeletons()[0])
        if from_own.unreadable():
            for copy in saved.wider_copies():
                source.add(checkpoint.open(record.copies[copy.name].files))
        if not from_own.differences().missing and not from_own.unreadable():
            return from_own
    source = TensorReader(checkpoint.open(name for copy in record.copies.values() for name in copy.files))
    try:
        skeleton = merge(source.skeletons())
        if names := source.conflicts():
            raise ValueError(f"its copies hold different values of {', '.join(names[:4])}")
    except ValueError as error:
        return from_own or _by_policy(empty, checkpoint, f"{error}; ")
    single = len(record.copies) == len(bound.copies) == 1
    action = f"resharded from {len(record.copies)} to {len(bound.copies)} copies"
    return replace(empty, action="loaded" if own or single else action, source=source, skeleton=skeleton)


def matching_copies(bound: BoundComponent, manifest: CheckpointManifest) -> dict[str, tuple[str, ...]]:
    """Copy -> its files, for the saved copies that the same ranks have written in the same topology and sharing."""
    record = manifest.components[bound.key]
    if record.sharing != str(bound.resolved.sharing) or dict(manifest.axes) != bound.topology.mesh:
        return {}
    return {name: copy.files for name, copy in record.copies.items()}


def selected_copies(bound: BoundComponent, manifest: CheckpointManifest) -> dict[str, tuple[str, ...]]:
    """Live copy -> files that its holders read in full; those of a resharded component are not among them."""
    if isinstance(bound.stateful, Reshardable):
        return matching_copies(bound, manifest)
    copies = manifest.components[bound.key].copies
    try:
        chosen = choose_copies(list(copies), [copy.name for copy in bound.copies], bound.component.on_missing_copy)
    except ValueError:
        return {}  # a load that has come this far reshards them
    return {name: copies[choice.copy].files for name, choice in chosen.items() if choice.copy is not None}


def _by_policy(empty: PendingLoad, checkpoint: OpenedCheckpoint, why: str = "") -> PendingLoad:
    bound, copies = empty.bound, checkpoint.manifest.components[empty.bound.key].copies
    try:
        chosen = choose_copies(list(copies), [copy.name for copy in bound.copies], bound.component.on_missing_copy)
    except ValueError as error:
        raise ValueError(f"{why}{error}") from error
    choice = chosen[bound.own_copy.name]
    if choice.copy is None:
        return PendingLoad(bound, choice.action)
    source, files = empty.source, copies[choice.copy].files
    if source is None or tuple(file.name for file in source.files) != files:
        source = TensorReader(checkpoint.open(files))
    return replace(empty, action=choice.action, source=source, skeleton=source.skeletons()[0])
