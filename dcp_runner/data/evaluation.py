"""Generates the samples of an evaluation: the same at every evaluation of a run, with the same randomness inside."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil

from dcp_runner.data.loader import Batch, load
from dcp_runner.data.seeded import MapDataset, Seeded


def evaluation_batches(
    dataset: MapDataset, *, samples: int | None, batch: int, part: int, parts: int, seed: int, workers: int = 0
) -> Iterator[tuple[Batch, int]]:
    """The batches of one part of an evaluation, each with the number of its samples. Leaves the global generators as
    they are.

    `samples` items (None, or more than there are: all), spread evenly over the data set so that they represent it, are
    split in order into `parts` contiguous slices whose lengths differ by at most one. The slice of `part` comes in
    batches of at most `batch` samples; the last batch may be shorter. Every part has as many batches as the longest
    part, because all ranks evaluate a sharded model together: a part that has run out yields batches of the first item,
    which count as 0 samples. Items are seeded by (seed, 0, index).
    """
    count = len(dataset) if samples is None else min(samples, len(dataset))
    start, stop = part * count // parts, (part + 1) * count // parts
    chosen = [number * len(dataset) // count for number in range(start, stop)]
    keys = [[(0, index) for index in chosen[first : first + batch]] for first in range(0, len(chosen), batch)]
    counts = [len(own) for own in keys] + [0] * (ceil(ceil(count / parts) / batch) - len(keys))
    keys += [[(0, 0)]] * (len(counts) - len(keys))
    yield from zip(load(Seeded(dataset, seed), keys, workers), counts, strict=True)
