"""Micro-batches from a data set; the only place where a DataLoader is built."""

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
    """Reads the micro-batches with the same numbers in every optimizer step.

    A step is a sequence of `step` samples, split into micro-batches of `size` samples that are numbered 0, 1, 2, ...;
    `numbers` are those to read. The caller says where a step starts: while each step follows the previous one, the
    loader continues and reads ahead; any other position restarts it there, at the same cost.
    """

    def __init__(
        self, dataset: MapDataset, order: Order, *, step: int, size: int, numbers: range, workers: int
    ) -> None:
        self._samples = Seeded(dataset, order.seed)
        self._order = order
        self._step = step
        self._size = size
        self._numbers = numbers
        self._workers = workers
        self._batches: Iterator[Batch] = iter(())
        self._next_start: int | None = None

    def read(self, start: int) -> list[Batch]:
        """The micro-batches of the step whose first sample has the number `start`.

        Exceptions of the data set are passed on, and the same step can then be read again.
        """
        if start != self._next_start:
            self.close()
            self._batches = self._start_at(start)
        self._next_start = None  # Within a step: a loader that has failed would continue with the wrong micro-batch.
        step = [next(self._batches) for _ in self._numbers]
        self._next_start = start + self._step
        return step

    def example(self) -> Batch:
        """A micro-batch of the usual shape, which repeats the first item of the data set; the position stays."""
        return collate([self._samples[0, 0]] * self._size)

    def close(self) -> None:
        """Stop the loader processes. Reading again starts new ones."""
        self._batches, self._next_start = iter(()), None

    def _start_at(self, start: int) -> Iterator[Batch]:
        keys = _endless_keys(self._order, start, self._step, self._size, self._numbers)
        return iter(load(self._samples, keys, self._workers, ahead=len(self._numbers)))


def load(samples: Seeded, keys: Iterable[list[Key]], workers: int, ahead: int = 1) -> DataLoader[Any]:
    """A loader of one batch for each list of keys, which reads at least `ahead` batches ahead if it has workers.

    Neither building it nor iterating over it draws from the global generators.
    """
    return DataLoader(
        samples,
        batch_sampler=keys,
        num_workers=workers,
        prefetch_factor=max(2, ceil(ahead / workers)) if workers else None,
        collate_fn=collate,
        worker_init_fn=_ignore_stop_signals,
        generator=torch.Generator(),
    )


def _ignore_stop_signals(worker: int) -> None:
    """A scheduler sends its stop signals to all processes of a job. They would kill the workers of a rank that still
    has to save, so a worker obeys only a SIGTERM from its own rank.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    Thread(target=_exit_on_sigterm_of_rank, daemon=True).start()
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def _exit_on_sigterm_of_rank() -> None:
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


def _endless_keys(order: Order, start: int, step: int, size: int, numbers: range) -> Iterator[list[Key]]:
    # Not a method: a loader that refers to its reader would keep worker processes alive after it is dropped.
    for first in count(start, step):
        for number in numbers:
            start_of_batch = first + number * size
            yield [order.at(sample) for sample in range(start_of_batch, start_of_batch + size)]
