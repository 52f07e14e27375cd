"""Where a part of a tensor lies in the whole: plain integers."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Box:
    """The elements from `offsets` on, `sizes` of them in each dimension, of a tensor of this global `shape`."""

    shape: Shape
    offsets: Shape
    sizes: Shape

    @classmethod
    def full(cls, shape: Shape) -> Box:
        """All of a tensor."""
        return cls(shape, (0,) * len(shape), shape)

    @property
    def elements(self) -> int:
        """How many elements it has; 0 is legal."""
        return prod(self.sizes)

    def intersection(self, other: Box) -> Box | None:
        """The elements that both have, or None; both are parts of a tensor of the same shape."""
        starts = tuple(map(max, self.offsets, other.offsets))
        stops = (min(a + n, b + m) for a, n, b, m in zip(
            self.offsets, self.sizes, other.offsets, other.sizes, strict=True
        ))  # fmt: skip
        sizes = tuple(stop - start for start, stop in zip(starts, stops, strict=True))
        return Box(self.shape, starts, sizes) if all(size > 0 for size in sizes) else None

    def slices_within(self, outer: Box) -> tuple[slice, ...]:
        """Its place in a local tensor that holds `outer`."""
        starts = [mine - theirs for mine, theirs in zip(self.offsets, outer.offsets, strict=True)]
        return tuple(slice(start, start + size) for start, size in zip(starts, self.sizes, strict=True))
