"""Where a shard is in the global tensor, as plain integers."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Box:
    """The elements of a tensor of this global `shape` that start at `offsets`, `sizes` of them in each dimension."""

    shape: Shape
    offsets: Shape
    sizes: Shape

    @classmethod
    def full(cls, shape: Shape) -> Box:
        """The whole tensor."""
        return cls(shape, (0,) * len(shape), shape)

    @property
    def elements(self) -> int:
        """The number of elements; it may be 0."""
        return prod(self.sizes)

    def _stops(self) -> Shape:
        return tuple(start + size for start, size in zip(self.offsets, self.sizes, strict=True))

    def intersection(self, other: Box) -> Box | None:
        """The elements that both have, or None if there are none. Both are of the same global shape."""
        starts = tuple(map(max, self.offsets, other.offsets))
        stops = map(min, self._stops(), other._stops())
        sizes = tuple(stop - start for start, stop in zip(starts, stops, strict=True))
        return Box(self.shape, starts, sizes) if all(size > 0 for size in sizes) else None

    def slices_within(self, outer: Box) -> tuple[slice, ...]:
        """The slices that select this box from a local tensor that holds `outer`."""
        starts = [inner - start for inner, start in zip(self.offsets, outer.offsets, strict=True)]
        return tuple(slice(start, start + size) for start, size in zip(starts, self.sizes, strict=True))
