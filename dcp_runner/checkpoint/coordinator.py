"""The coordinator: saves and loads the components of a run in one folder, all ranks or none."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from dcp_runner.checkpoint.bind import bind
from dcp_runner.checkpoint.comm import Comm, connect
from dcp_runner.checkpoint.component import StateComponent
from dcp_runner.checkpoint.config import Check, Validation
from dcp_runner.checkpoint.loading import LoadReport, chosen, load
from dcp_runner.checkpoint.manifest import CheckpointManifest
from dcp_runner.checkpoint.reading import check_files, check_whole, parse_manifest, whole_checkpoints
from dcp_runner.checkpoint.rehearsal import rehearse
from dcp_runner.checkpoint.saving import AddFiles, save
from dcp_runner.checkpoint.storage import Storage
from dcp_runner.checkpoint.topology import Topology
from dcp_runner.checkpoint.verify import verify_declared


class CheckpointCoordinator:
    """Saves and loads components among the ranks of a topology.

        topology = Topology.from_env(pp=2, dp=2)
        coordinator = CheckpointCoordinator(components, topology, "runs/a/checkpoints", validation="tensor")
        coordinator.load("latest")
        coordinator.save(500, metrics={"eval_loss": 2.7})

    Every method is called by all ranks, in the same order, from one thread. With more than one rank the default
    process group must be initialised; the coordinator takes its store, and makes a gloo group of its own. One
    coordinator at a time writes to a folder: making one removes what an earlier one left half-written.

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

        def open_folder() -> str:
            self.storage.sweep()
            return str(attempt or uuid.uuid4().hex[:8])

        self.attempt: str = self.comm.from_first("open", open_folder)

    def check_storage(self) -> None:
        """Whether all ranks see the same folder and may write to it; better asked before the training than after it.
        And claim it, so that an earlier attempt that is still alive somewhere commits nothing more.

        The CheckpointError of a rank that does not names its host.
        """
        mark: str = self.comm.from_first("storage", self.storage.leave_mark)
        self.comm.agree("storage", lambda: self.storage.see_mark(mark))
        self.comm.from_first("storage", lambda: (self.storage.root / mark).unlink())
        self.comm.from_first("storage", lambda: self.storage.claim(self.attempt))

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
        return save(
            self.bound,
            self.topology,
            self.comm,
            self.storage,
            step=step,
            attempt=self.attempt,
            metrics=metrics or {},
            config=self._config,
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
        steps: Sequence[int] = self.comm.from_first("list", self.storage.steps)
        return steps

    def delete(self, steps: Sequence[int]) -> Sequence[int]:
        """Remove these checkpoints; their steps. `steps` must be the same on every rank."""

        def remove() -> None:
            for step in steps:
                self.storage.remove(step)

        if steps:
            self.comm.from_first("delete", remove)
        return steps

    def verify(self, path: str | Path) -> CheckpointManifest:
        """Read every byte of a checkpoint, shared out between the ranks, and compare with the digests. A file that the
        manifest does not list is an error too, where a load only logs it.
        """
        folder = Path(path)

        def whole() -> list[Any]:
            found = check_whole(folder)
            return [found.data.decode(), sorted([*found.manifest.files, *found.unlisted])]

        text, names = self.comm.from_first("verify", whole)
        manifest = parse_manifest(text.encode())
        mine = names[self.comm.rank :: self.comm.world_size]
        self.comm.agree("verify", lambda: check_files(folder, manifest, mine))
        return manifest

    def go_back(self, step: int) -> Sequence[int]:
        """Retire every checkpoint above `step`, so that an abandoned branch is never the latest again; their steps."""
        retired: Sequence[int] = self.comm.from_first("retire", lambda: self.storage.retire(step, self.attempt))
        return retired

    def latest(self) -> Path | None:
        """The highest committed step, or None where there is no checkpoint.

        Raises CheckpointError where it is damaged or cannot be read; the text names the next valid one.
        """
        if not self.steps():
            return None
        with chosen(self.comm, self.storage, "latest", self._best) as (folder, *_):
            return folder

    def list(self) -> dict[int, CheckpointManifest]:
        """The valid checkpoints by step, ascending: a damaged one hides no other. `steps` has them all."""

        def read() -> Sequence[str]:
            return [whole.data.decode() for whole in whole_checkpoints(self.storage).values()]

        manifests = [parse_manifest(text.encode()) for text in self.comm.from_first("list", read)]
        return {manifest.step: manifest for manifest in manifests}
