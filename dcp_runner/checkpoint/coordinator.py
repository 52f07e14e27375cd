"""The coordinator: saves and loads the components of a run in one folder, all ranks or none."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from dcp_runner.checkpoint.bind import bind
from dcp_runner.checkpoint.component import StateComponent
from dcp_runner.checkpoint.config import Check, Validation
from dcp_runner.checkpoint.files.catalog import valid_checkpoints
from dcp_runner.checkpoint.files.integrity import check_files, check_whole, parse_manifest
from dcp_runner.checkpoint.files.manifest import CheckpointManifest
from dcp_runner.checkpoint.files.ownership import Identify, Identity, Owner, owner_of
from dcp_runner.checkpoint.files.saved_metrics import SavedMetrics, retired_to_delete
from dcp_runner.checkpoint.files.storage import Storage
from dcp_runner.checkpoint.loading.load import LoadReport, chosen, load
from dcp_runner.checkpoint.saving.rehearse import rehearse
from dcp_runner.checkpoint.saving.save import AddFiles, save
from dcp_runner.checkpoint.saving.verify_holders import verify_declared
from dcp_runner.checkpoint.sync.comm import Comm, connect
from dcp_runner.checkpoint.topology import Topology


class CheckpointCoordinator:
    """Saves and loads components among the ranks of a topology.

        topology = Topology.from_env(pp=2, dp=2)
        coordinator = CheckpointCoordinator(components, topology, "runs/a/checkpoints", validation="tensor")
        coordinator.load("latest")
        coordinator.save(500, metrics={"eval_loss": 2.7})

    Every method is called by all ranks, in the same order, from one thread. With more than one rank the default
    process group must be initialised; the coordinator takes its store, and makes a gloo group of its own.

    One coordinator at a time writes to a folder. Its first save (or `delete`, or `go_back`) claims it, which is refused
    while another process of this host that has done so is alive; an earlier claimant elsewhere, or in this process,
    writes nothing from then on. A coordinator that only loads, lists and verifies writes nothing at all.

    `validation` is the level at which the holders of a copy are compared, `validation_for` overrides it by
    component; `check` says whether a load checks all files (shared out) or those that are read; `timeout_s` bounds
    the silence of a rank in any phase; `attempt` tells this start of the run from others (default: random); `best`
    is the metric and direction of `load("best")`; `config` is the hash of the run's configuration, for the
    manifest. Raises ValueError for components that cannot be saved so, and CheckpointError from every method where
    any rank fails.
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
        best: tuple[str, Literal["min", "max"]] = ("eval_loss", "min"),
        config: str = "",
        comm: Comm | None = None,
        storage: Storage | None = None,
    ) -> None:
        self.topology = topology
        self.storage = storage or Storage(Path(directory))
        self.comm = comm or connect(topology.world_size, timeout_s)
        self.bound = self.comm.agree(
            "open", lambda: bind(components, topology, self.comm.rank, validation, validation_for)
        )
        verify_declared(self.bound, topology, self.comm)
        self._check = Check(check)
        self._best = best
        self._config = config
        self._scores = SavedMetrics(self.storage)
        self.origin: Mapping[str, Any] = {}
        """What every manifest tells of the run beside its configuration; the same on every rank."""

        def look() -> list[Any]:
            return [str(attempt or uuid.uuid4().hex[:8]), owner_of(self.storage.root).number]

        self.attempt: str
        self._seen: int
        self.attempt, self._seen = self.comm.on_rank_0("open", look)

    def check_visible(self, writable: bool = False) -> None:
        """Whether all ranks see the checkpoints that rank 0 sees (and may write beside them); writes nothing.

        The CheckpointError of a rank that does not names its host.
        """
        names: list[str] = self.comm.on_rank_0("storage", self.storage.names)
        self.comm.agree("storage", lambda: self.storage.see(names, writable))

    def claim(self, identify: Identify = lambda found: found) -> Identity:
        """Claim the folder, unless this coordinator has it; the run that it belongs to. A run does so before it trains.

        `identify` is called on rank 0 with the identity that the folder has. Raises CheckpointError where it raises,
        where another process of this host that has the folder is alive, and where a rank cannot write there.
        """
        if self.storage.owner is None:
            made = self.comm.on_rank_0("claim", lambda: asdict(self.storage.claim(self.attempt, identify, self._seen)))
            self.check_visible(writable=True)
            self.storage.owner = Owner(**{**made, "identity": Identity(**made["identity"])})
        return self.storage.owner.identity

    def release(self) -> None:
        """Give the folder up: another process may claim it, and the next save here claims it anew."""
        if self.comm.rank == 0:
            self.storage.release()
        self.storage.owner = None

    def rehearse(self) -> None:
        """Everything that a save checks, but for the bytes of the tensors: whether all states can be stored, and what
        is no tensor is equal where it is declared so. Nothing is written, no random number drawn.

        For the beginning of a training, and once more after its first step, when optimizers have made their state.
        Raises the CheckpointError of the save that would fail.
        """
        rehearse(self.bound, self.comm)

    def save(self, step: int, metrics: Mapping[str, float] | None = None, *, add_files: AddFiles | None = None) -> Path:
        """Write `checkpoint-<step>`; its path, on every rank. An existing one of that step is never overwritten.

        `add_files(folder)` is called on rank 0 before anything of ours is written. The files that it writes into the
        folder are listed and digested like ours; where it raises, or takes a name of ours, nothing is committed.
        """
        self.claim()
        return save(
            self.bound,
            self.topology,
            self.comm,
            self.storage,
            step=step,
            attempt=self.attempt,
            metrics=metrics or {},
            config=self._config,
            origin=self.origin,
            add_files=add_files,
        )

    def load(
        self,
        which: int | str | Path = "latest",
        *,
        strict: bool = True,
        skip: Collection[str] = (),
        fresh: Collection[str] = (),
    ) -> LoadReport:
        """Load `latest`, `best`, a step or the path of a checkpoint; never falls back to another one.

        `strict=False` tolerates what is missing or unexpected, but no wrong shape or dtype. Components in `skip`
        stay as they are; those in `fresh` start afresh, as if the checkpoint had no copy for them.
        """
        return load(
            self.bound,
            self.comm,
            self.storage,
            which,
            best=self._best,
            strict=strict,
            skip=skip,
            fresh=fresh,
            check=self._check,
        )

    def steps(self) -> Sequence[int]:
        """Steps of all folders named as committed checkpoints, whole or not, ascending."""
        steps: Sequence[int] = self.comm.on_rank_0("list", self.storage.steps)
        return steps

    def delete(self, steps: Sequence[int]) -> Sequence[int]:
        """Remove these checkpoints; their steps. `steps` must be the same on every rank."""
        self._remove([self.storage.path(step) for step in steps])
        return steps

    def delete_retired(self, keep: int) -> Sequence[str]:
        """Remove retired checkpoints but so many of those saved last; their names."""
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

    def verify(self, path: str | Path) -> CheckpointManifest:
        """Read every byte of a checkpoint, shared out between the ranks, and compare with the digests. A file that the
        manifest does not list is an error too, where a load only logs it.
        """
        folder = Path(path)

        def whole() -> list[Any]:
            found = check_whole(folder)
            return [found.data.decode(), sorted([*found.manifest.files, *found.unlisted])]

        text, names = self.comm.on_rank_0("verify", whole)
        manifest = parse_manifest(text.encode())
        mine = names[self.comm.rank :: self.comm.world_size]
        self.comm.agree("verify", lambda: check_files(folder, manifest, mine))
        return manifest

    def retire_after(self, step: int) -> Sequence[int]:
        """Retire every checkpoint above `step`, so that an abandoned branch is never the latest again; their steps."""
        self.claim()
        retired: Sequence[int] = self.comm.on_rank_0("retire", lambda: self.storage.retire(step))
        return retired

    def latest(self) -> Path | None:
        """The highest committed step, or None where there is no checkpoint.

        Raises CheckpointError where it is damaged or cannot be read; the text names the next valid one.
        """
        if not self.steps():
            return None
        with chosen(self.comm, self.storage, "latest", self._best) as (folder, *_):
            return folder

    def metrics(self) -> dict[int, Mapping[str, float]]:
        """The metrics of the valid checkpoints by step, ascending; reads what it has not read before."""
        found = self.comm.on_rank_0("list", lambda: [*self._scores().items()])
        return {step: metrics for step, metrics in found}

    def list(self) -> dict[int, CheckpointManifest]:
        """The valid checkpoints by step, ascending: a damaged one hides no other. `steps` has them all."""

        def read() -> Sequence[str]:
            return [whole.data.decode() for whole in valid_checkpoints(self.storage).values()]

        manifests = [parse_manifest(text.encode()) for text in self.comm.on_rank_0("list", read)]
        return {manifest.step: manifest for manifest in manifests}
