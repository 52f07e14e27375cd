"""Micro-batches from a data set: the one place where a loader is built."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from math import ceil
from threading import Thread
from typing import Any

import torch
from torch.utils.data import DataLoader, default_collate

from dcp_runner.data.order import Order
from dcp_runner.data.seeded import MapDataset, Seeded

Batch = tuple[Any, Any]
"""(inputs, targets): tensors, or nested containers of tensors, with the samples along the first dimension."""

Key = tuple[int, int]
"""(epoch, index) of one sample."""


class Reader:
    """Reads, step after step, the same micro-batches of every optimizer step.

    A step is a run of `step` samples, cut into micro-batches of `size` samples that are numbered 0, 1, 2, ...;
    `wanted` says which of them are read. Where a step starts is the caller's to say: as long as each step follows the
    one before, the loader goes on and reads ahead, and any other position starts it there, at the same cost.
    """

    def __init__(self, dataset: MapDataset, order: Order, *, step: int, size: int, wanted: range, workers: int) -> None:
        self._samples = Seeded(dataset, order.seed)
        self._order = order
        self._step = step
        self._size = size
        self._wanted = wanted
        self._workers = workers
        self._batches: Iterator[Batch] = iter(())
        self._next_start: int | None = None

    def read(self, start: int) -> list[Batch]:
        """The wanted micro-batches of the step whose first sample has the number `start`.

        Whatever the data set raises comes through, and the same step can then be read again.
        """
        if start != self._next_start:
            self.close()
            self._batches = self._begin(start)
        self._next_start = None  # Amid a step: a loader that has failed would go on with the wrong micro-batch.
        step = [next(self._batches) for _ in self._wanted]
        self._next_start = start + self._step
        return step

    def example(self) -> Batch:
        """A micro-batch of the usual shape, made of the data set's first item alone; the position stays."""
        return collate([self._samples[0, 0]] * self._size)

    def close(self) -> None:
        """End the loader processes. Reading again starts new ones."""
        self._batches, self._next_start = iter(()), None

    def _begin(self, start: int) -> Iterator[Batch]:
        keys = _endless_keys(self._order, start, self._step, self._size, self._wanted)
        return iter(load(self._samples, keys, self._workers, ahead=len(self._wanted)))


def load(samples: Seeded, keys: Iterable[list[Key]], workers: int, ahead: int = 1) -> DataLoader[Any]:
    """A loader of one batch for each list of keys, which reads at least `ahead` batches ahead where it has workers.

    Making it and iterating over it draw nothing from the global generators.
    """
    return DataLoader(
        samples,
        batch_sampler=keys,
        num_workers=workers,
        prefetch_factor=max(2, ceil(ahead / workers)) if workers else None,
        collate_fn=collate,
        worker_init_fn=_leave_signals_to_the_rank,
        generator=torch.Generator(),
    )


def _leave_signals_to_the_rank(worker: int) -> None:
    """A scheduler sends its signals to all processes of a job, and torch's workers die by them, under a rank that wants
    to save first. So a worker ends by a SIGTERM of its rank only.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    Thread(target=_obey_the_rank, daemon=True).start()
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def _obey_the_rank() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def collate(items: Sequence[Any]) -> Batch:
    """One batch from the items of a data set, by torch's `default_collate`.

    Raises:
        ValueError: an item is not a pair.
    """
    for item in items:
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise ValueError(f"an item of the data set must be a pair (inputs, targets), found {_kind(item)}")
    inputs, targets = default_collate([tuple(item) for item in items])
    return inputs, targets


def _kind(item: object) -> str:
    name = type(item).__name__
    return f"a {name} of length {len(item)}" if isinstance(item, tuple | list) else f"an object of type {name}"


def _endless_keys(order: Order, start: int, step: int, size: int, wanted: range) -> Iterator[list[Key]]:
    # A function and not a method: a loader that led back to its reader would keep dropped worker processes alive.
    for first in count(start, step):
        for number in wanted:
            begin = first + number * size
            yield [order.at(sample) for sample in range(begin, begin + size)]
