"""Before a load: where this rank's state of a component is in a checkpoint, and whether it fits. Reads headers only."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from dcp_runner.checkpoint.bind import Bound
from dcp_runner.checkpoint.component import Comparing, Differences, Elastic
from dcp_runner.checkpoint.manifest import CheckpointManifest
from dcp_runner.checkpoint.merge import merge, prune
from dcp_runner.checkpoint.plan import sources
from dcp_runner.checkpoint.reading import open_copy
from dcp_runner.checkpoint.skeleton import Json
from dcp_runner.checkpoint.source import Source
from dcp_runner.checkpoint.untree import unflatten


@dataclass
class Pending:
    """A component between reading and applying; without a source it is not read."""

    bound: Bound
    action: str
    source: Source | None = None
    skeleton: Json = None
    layout: Any = None
    """What stands where the saved tensors will stand; they are cut alike."""
    state: Any = None

    def differences(self) -> Differences:
        """How the saved state differs from the live one, without reading tensors."""
        stateful, source = self.bound.stateful, self.source
        if source is None or not isinstance(stateful, Comparing):
            return Differences()
        return stateful.differences(unflatten(self.skeleton, lambda name, _: source.abstract(name), self.layout))

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
            self.state = unflatten(self._taken(), self.source.read, self.layout)

    @cached_property
    def _tensors(self) -> list[tuple[str, Any]]:
        """Names of the tensors that this rank takes, with the live values in their places."""
        found: list[tuple[str, Any]] = []

        def note(name: str, live: Any) -> torch.Tensor:
            found.append((name, live))
            return torch.empty(0, device="meta")

        unflatten(self._taken(), note, self.layout)
        return found

    def _taken(self) -> Json:
        stateful = self.bound.stateful
        return prune(self.skeleton, stateful.wanted()) if isinstance(stateful, Elastic) else self.skeleton


def open_component(one: Bound, folder: Path, manifest: CheckpointManifest, stack: ExitStack) -> Pending:
    """Find where this rank's state of a component is.

    Raises ValueError where the checkpoint has other copies than are wanted, which cannot be re-cut.
    """
    record = manifest.components[one.key]
    if not isinstance(one.stateful, Elastic):
        return _by_policy(one, folder, manifest, stack)
    layout = one.stateful.layout()
    alone = None
    own = own_copies(one, manifest).get(one.mine.name)
    if own:
        source = Source(open_copy(folder, manifest, own, stack))
        alone = Pending(one, "loaded", source, source.skeletons()[0], layout)
        if alone.unreadable():
            for copy in one.wider():
                source.add(open_copy(folder, manifest, record.copies[copy.name].files, stack))
        if not alone.differences().missing and not alone.unreadable():
            return alone
    everything = [name for copy in record.copies.values() for name in copy.files]
    source = Source(open_copy(folder, manifest, everything, stack))
    try:
        skeleton = merge(source.skeletons())
        if names := source.conflicts():
            raise ValueError(f"its copies hold different values of {', '.join(names[:4])}")
    except ValueError as error:
        return alone or _by_policy(one, folder, manifest, stack, f"{error}; ")
    uncut = len(record.copies) == len(one.copies) == 1
    action = "loaded" if own or uncut else f"re-cut from {len(record.copies)} to {len(one.copies)} copies"
    return Pending(one, action, source, skeleton, layout)


def own_copies(one: Bound, manifest: CheckpointManifest) -> dict[str, tuple[str, ...]]:
    """Copy -> its files, for the saved copies that the same ranks have written in the same topology and sharing."""
    record = manifest.components[one.key]
    if record.sharing != str(one.resolved.sharing) or dict(manifest.axes) != one.topology.mesh:
        return {}
    return {name: copy.files for name, copy in record.copies.items()}


def chosen_copies(one: Bound, manifest: CheckpointManifest) -> dict[str, tuple[str, ...]]:
    """Live copy -> files that its holders read whole; those of a re-cut component are not among them."""
    if isinstance(one.stateful, Elastic):
        return own_copies(one, manifest)
    copies = manifest.components[one.key].copies
    chosen = sources(list(copies), [copy.name for copy in one.copies], one.component.on_missing_copy)
    return {name: copies[source.copy].files for name, source in chosen.items() if source.copy is not None}


def _by_policy(one: Bound, folder: Path, manifest: CheckpointManifest, stack: ExitStack, why: str = "") -> Pending:
    copies = manifest.components[one.key].copies
    try:
        chosen = sources(list(copies), [copy.name for copy in one.copies], one.component.on_missing_copy)
    except ValueError as error:
        raise ValueError(f"{why}{error}") from error
    source_of_mine = chosen[one.mine.name]
    if source_of_mine.copy is None:
        return Pending(one, source_of_mine.action)
    source = Source(open_copy(folder, manifest, copies[source_of_mine.copy].files, stack))
    return Pending(one, source_of_mine.action, source, source.skeletons()[0], one.stateful.state_dict())
