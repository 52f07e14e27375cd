"""The coordinator: saves and loads the components of a run in one checkpoint root, on all ranks or on none."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dcp_runner.checkpoint.bind import bind
from dcp_runner.checkpoint.component import StateComponent
from dcp_runner.checkpoint.config import Check, Validation
from dcp_runner.checkpoint.errors import CheckpointError
from dcp_runner.checkpoint.files.catalog import BEST_BY, BestBy, valid_checkpoints
from dcp_runner.checkpoint.files.integrity import parse_manifest
from dcp_runner.checkpoint.files.manifest import CheckpointManifest
from dcp_runner.checkpoint.files.ownership import Identify, Identity, Owner, owner_of
from dcp_runner.checkpoint.files.saved_metrics import SavedMetrics, retired_to_delete
from dcp_runner.checkpoint.files.storage import Storage
from dcp_runner.checkpoint.loading.find import found_checkpoint, verify_checkpoint
from dcp_runner.checkpoint.loading.load import LoadReport, load
from dcp_runner.checkpoint.loading.request import LoadRequest
from dcp_runner.checkpoint.saving.rehearse import rehearse
from dcp_runner.checkpoint.saving.request import AddFiles, SaveRequest
from dcp_runner.checkpoint.saving.save import save
from dcp_runner.checkpoint.saving.verify_holders import verify_declared
from dcp_runner.checkpoint.sync.comm import Comm, connect
from dcp_runner.checkpoint.topology import Topology


class CheckpointCoordinator:
    """Saves and loads the components of a run among the ranks of a topology.

        topology = Topology.from_env(pp=2, dp=2)
        coordinator = CheckpointCoordinator(components, topology, "runs/a/checkpoints")
        if coordinator.steps():
            coordinator.load("latest")
        coordinator.save(500, metrics={"eval_loss": 2.7})

    Every method is collective: all ranks call it, in the same order, each from one thread. Where any rank fails, all
    living ranks raise the same CheckpointError. With more than one rank the default process group must be initialised;
    the coordinator uses its store, and makes a gloo group of its own.

    One coordinator at a time writes to a checkpoint root. The first call that writes claims the root (`claim`), which
    fails while another living process of this host holds it; an earlier owner on another host, or in this process,
    writes nothing from then on. A coordinator that only loads, lists and verifies writes nothing at all.
    """

    def __init__(
        self,
        components: Sequence[StateComponent],
        topology: Topology,
        directory: str | Path,
        validation: Validation | str = Validation.tensor,
        *,
        validation_for: Mapping[str, Validation | str] | None = None,
        check: Check | str = Check.all,
        timeout_s: float = 600.0,
        attempt: int | str | None = None,
        best: BestBy = BEST_BY,
        config: str = "",
        comm: Comm | None = None,
        storage: Storage | None = None,
    ) -> None:
        """Bind the components to the topology, and make sure that all ranks have declared the same.

        Args:
            components: what is saved and loaded; their order and declarations are the same on every rank.
            topology: the ranks and their mesh axes.
            directory: the checkpoint root, the same folder for all ranks; the first save makes it.
            validation: how the ranks that hold one copy are compared before a save: none, quick, tensor or full.
            validation_for: overrides `validation` for single components, by key.
            check: which files a load compares with their digests: all (divided among the ranks), or those it reads.
            timeout_s: how long the other ranks wait for a silent one, in any phase of a save or load.
            attempt: distinguishes this start of the run from others in the root; random by default.
            best: the metric, and whether `min` or `max` of it is best, for `load("best")`.
            config: hash of the run's configuration, for the manifest.
            comm: how the ranks communicate; by default over the default process group's store.
            storage: the checkpoint root; by default `directory` on a file system.

        Raises CheckpointError for components that cannot be saved as declared, with all that is wrong with them.
        """
        self.topology = topology
        self.storage = storage or Storage(Path(directory))
        self.comm = comm or connect(topology.world_size, timeout_s)
        self.bound = self.comm.agree(
            "open", lambda: bind(components, topology, self.comm.rank, validation, validation_for)
        )
        verify_declared(self.bound, topology, self.comm)
        self.origin: Mapping[str, Any] = {}
        """What every manifest says of the run beside its configuration; the same on every rank."""
        self._check = Check(check)
        self._best = best
        self._config = config
        self._saved_metrics = SavedMetrics(self.storage)

        def look() -> Sequence[Any]:
            return [str(attempt or uuid.uuid4().hex[:8]), owner_of(self.storage.root).number]

        self.attempt: str
        self._last_claim: int
        self.attempt, self._last_claim = self.comm.on_rank_0("open", look)

    def save(self, step: int, metrics: Mapping[str, float] | None = None, *, add_files: AddFiles | None = None) -> Path:
        """Write `checkpoint-<step>`; its path, on every rank. A committed checkpoint is never overwritten.

        `metrics` are numbers by name, for the manifest. `add_files(folder)` is called on rank 0 before anything else is
        written: the files that it writes into the folder become part of the checkpoint, with digests like all others.
        If it raises, or uses the name of a file of a component, nothing is committed.
        """
        self.claim()
        request = SaveRequest(step, self.attempt, metrics or {}, self._config, self.origin, add_files)
        return save(self.bound, self.topology, self.comm, self.storage, request)

    def rehearse(self) -> None:
        """Check everything that a save checks, except the bytes of tensors: that all states can be stored, and that
        everything but tensors is equal where it is declared so. Nothing is written, and no random number is drawn.

        Call it before training, and again after the first step, when optimizers have made their state. Raises the
        CheckpointError of the save that would fail.
        """
        rehearse(self.bound, self.comm)

    def load(
        self,
        which: int | str | Path = "latest",
        *,
        strict: bool = True,
        skip: Collection[str] = (),
        fresh: Collection[str] = (),
    ) -> LoadReport:
        """Load `latest`, `best`, a step, or the path of a checkpoint; never another one in its place.

        No object is changed before every rank has read and checked everything. `strict=False` tolerates missing and
        unexpected entries, but no wrong shape or dtype. Components in `skip` stay as they are; those in `fresh` are
        reset, as if the checkpoint had no copy for them.
        """
        request = LoadRequest(which, self._best, strict, skip, fresh, self._check)
        return load(self.bound, self.comm, self.storage, request)

    def latest(self) -> Path | None:
        """The checkpoint of the highest committed step, or None where there is none.

        Raises CheckpointError where it is damaged or cannot be read; the message names the next valid one.
        """
        if not self.steps():
            return None
        with found_checkpoint(self.comm, self.storage, LoadRequest("latest", self._best)) as (folder, *_):
            return folder

    def steps(self) -> Sequence[int]:
        """Steps of all committed checkpoints, ascending, whether valid or not."""
        steps: Sequence[int] = self.comm.on_rank_0("list", self.storage.steps)
        return steps

    def metrics(self) -> dict[int, Mapping[str, float]]:
        """The metrics of the valid checkpoints by step, ascending. A manifest is read only once."""
        found = self.comm.on_rank_0("list", lambda: [*self._saved_metrics().items()])
        return {step: metrics for step, metrics in found}

    def verify(self, path: str | Path) -> CheckpointManifest:
        """Read every byte of a checkpoint, divided among the ranks, and compare it with the digests; its manifest.

        A file that the manifest does not list is an error too, where a load only logs it.
        """
        return verify_checkpoint(self.comm, Path(path))

    def delete(self, steps: Sequence[int]) -> Sequence[int]:
        """Delete these checkpoints; their steps. `steps` must be the same on every rank."""
        self._remove([self.storage.path(step) for step in steps])
        return steps

    def retire_after(self, step: int) -> Sequence[int]:
        """Rename every checkpoint above `step` to `retired-...`, so that an abandoned branch is never the latest again;
        their steps.
        """
        self.claim()
        retired: Sequence[int] = self.comm.on_rank_0("retire", lambda: self.storage.retire_after(step))
        return retired

    def delete_retired(self, keep: int) -> Sequence[str]:
        """Delete all retired checkpoints except the `keep` ones saved last; their names."""
        names: Sequence[str] = self.comm.on_rank_0("list", lambda: retired_to_delete(self.storage, keep))
        self._remove([self.storage.root / name for name in names])
        return names

    def _remove(self, folders: Sequence[Path]) -> None:
        def remove() -> None:
            for folder in folders:
                self.storage.remove(folder)

        if folders:
            self.claim()
            self.comm.on_rank_0("delete", remove)

    def check_visible(self, writable: bool = False) -> None:
        """Check that all ranks see the checkpoints that rank 0 sees (and may write there). Writes nothing.

        The CheckpointError names the ranks that do not, with their hosts.
        """
        try:
            self._check_visible(writable)
        except CheckpointError as error:
            if error.types != {"FileNotFoundError"}:
                raise
            self._check_visible(writable)  # once more: another process may have deleted a checkpoint between two looks

    def _check_visible(self, writable: bool) -> None:
        names: Sequence[str] = self.comm.on_rank_0("storage", self.storage.visible_names)
        self.comm.agree("storage", lambda: self.storage.check_visible(names, writable))

    def claim(self, identify: Identify = lambda found: found) -> Identity:
        """Claim the checkpoint root for writing, unless this coordinator holds it; the run that it belongs to.

        Every call that writes does so; a run does it before it trains, to fail early. `identify` is called on rank 0
        with the identity that the root has, and gives the one it is to have. Raises CheckpointError where `identify`
        raises, where another living process of this host holds the root, and where a rank cannot write there.
        """
        if self.storage.owner is None:
            seen = self._last_claim
            plain = self.comm.on_rank_0("claim", lambda: asdict(self.storage.claim(self.attempt, identify, seen)))
            self.check_visible(writable=True)
            self.storage.owner = Owner(**{**plain, "identity": Identity(**plain["identity"])})
        return self.storage.owner.identity

    def release(self) -> None:
        """Give up the claim: another process may claim the root, and the next save here claims it again."""
        if self.comm.rank == 0:
            self.storage.release()
        self.storage.owner = None

    def list(self) -> dict[int, CheckpointManifest]:
        """The manifests of the valid checkpoints by step, ascending; a damaged one hides no other."""

        def read() -> Sequence[str]:
            return [valid.data.decode() for valid in valid_checkpoints(self.storage).values()]

        manifests = [parse_manifest(text.encode()) for text in self.comm.on_rank_0("list", read)]
        return {manifest.step: manifest for manifest in manifests}
