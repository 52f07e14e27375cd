"""What the training loop takes its batches from, and the data position that a checkpoint keeps.

Step k of a run is the same set of samples whatever the topology: the next `batch_size` samples of the run's order.
They are cut into parts, one for each data-parallel rank, and a part into micro-batches, always in contiguous slices.
The position is one number, the samples consumed so far, equal in every rank. So a run that goes on with another
number of parts neither repeats nor drops a sample.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, final

from dcp_runner.data.loader import Batch, Reader
from dcp_runner.data.order import Order
from dcp_runner.data.seeded import MapDataset


@dataclass(kw_only=True, eq=False, repr=False)
class Feed(ABC):
    """The micro-batches of one rank, step after step; with `state_dict` and `load_state_dict` for the checkpoint.

    Raises:
        ValueError: the data set is empty, the batch size cannot be cut, or there is no such part.
    """

    dataset: MapDataset
    """Its items are pairs (inputs, targets)."""
    batch_size: int
    """Samples of one optimizer step over all parts."""
    parts: int
    """Data-parallel parts that a step is cut into."""
    part: int
    """The part of this rank."""
    microbatches: int
    """Micro-batches of one step in each part."""
    seed: int
    """The order, and the randomness inside the items, come from it."""
    shuffle: bool
    """A new order for every epoch."""
    workers: int
    """Loader processes of a rank that reads; 0 reads in the rank itself. They start at the first `next`."""
    consumed: int = field(default=0, init=False)
    """Samples handed out by `next`, over all parts. What was only read ahead does not count."""

    def __post_init__(self) -> None:
        cuts = self.parts * self.microbatches
        if min(self.batch_size, cuts) < 1 or self.batch_size % cuts:
            raise ValueError(
                f"batch_size must be a multiple of data-parallel parts x micro-batches = "
                f"{self.parts} x {self.microbatches} = {cuts}, found {self.batch_size}"
            )
        if self.part not in range(self.parts):
            raise ValueError(f"part must be one of 0 to {self.parts - 1}, found {self.part}")
        self._reader = Reader(
            self.dataset,
            Order(len(self.dataset), self.seed, self.shuffle),
            step=self.batch_size,
            size=self.batch_size // cuts,
            wanted=self._wanted(),
            workers=self.workers,
        )

    @final
    def next(self) -> list[Batch]:
        """The micro-batches of this rank for one optimizer step. Where it raises, nothing is consumed."""
        batches = self._read()
        self.consumed += self.batch_size
        return batches

    @final
    def example(self) -> Batch:
        """A micro-batch of the usual shape, made of the data set's first item alone; it consumes nothing."""
        return self._reader.example()

    @final
    def state_dict(self) -> dict[str, Any]:
        """The position, and what gives it its meaning."""
        return {"consumed": self.consumed} | self._meaning()

    @final
    def unlike(self, state: dict[str, Any]) -> list[str]:
        """Why a saved position means nothing here, with the remedy; empty where it does."""
        found = [
            f"{key} {state.get(key)} in the checkpoint, {value} now"
            for key, value in self._meaning().items()
            if state.get(key) != value
        ]
        if not found:
            return []
        return [
            f"the data position of the checkpoint, consumed={state.get('consumed')}, belongs to another order of "
            f"samples: {'; '.join(found)}. resume_skip=[dataset] starts the data from the beginning."
        ]

    @final
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to the saved position. The cost does not depend on how far that is.

        Raises:
            ValueError: the saved position counts the samples of another data set or of another order.
        """
        if problems := self.unlike(state):
            raise ValueError("; ".join(problems))
        self.consumed = state["consumed"]

    @final
    def close(self) -> None:
        """End the loader processes. The position stays, and `next` starts them anew."""
        self._reader.close()

    @abstractmethod
    def _wanted(self) -> range:
        """Which micro-batches of a step this rank reads; part p has numbers p * microbatches and up."""

    @abstractmethod
    def _read(self) -> list[Batch]:
        """The micro-batches of this rank's part for the step that starts at `consumed`."""

    def _meaning(self) -> dict[str, Any]:
        return {"length": len(self.dataset), "seed": self.seed, "shuffle": self.shuffle}


@final
class IndependentFeed(Feed):
    """Each rank reads its own part."""

    def _wanted(self) -> range:
        return range(self.part * self.microbatches, (self.part + 1) * self.microbatches)

    def _read(self) -> list[Batch]:
        return self._reader.read(self.consumed)
