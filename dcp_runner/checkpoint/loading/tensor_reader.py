"""The tensors of one component in a checkpoint as whole tensors, however many parts and files hold them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch

from dcp_runner.checkpoint.files.tensor_file import StoredTensor, TensorFile
from dcp_runner.checkpoint.state.box import Box
from dcp_runner.checkpoint.state.dtensor import from_local_like, is_dtensor, local_shard
from dcp_runner.checkpoint.state.treespec import Json

BUCKET = 32 * 2**20
"""Bytes that are read at once from a part that is sharded differently than it is needed."""


@dataclass(frozen=True)
class Piece:
    """A stored part of a tensor."""

    file: TensorFile
    stored: StoredTensor


class TensorReader:
    """The tensors of some files by name; parts of one name are parts of one tensor, and the same part is taken once."""

    def __init__(self, files: Sequence[TensorFile]) -> None:
        self.files: list[TensorFile] = []
        self._pieces: dict[str, list[Piece]] = {}
        self._read: dict[tuple[str, Box], torch.Tensor] = {}
        self.add(files)

    def add(self, files: Sequence[TensorFile]) -> None:
        """Take parts from these files too."""
        for file in files:
            self.files.append(file)
            for name, stored in file.tensors.items():
                self._pieces.setdefault(name, []).append(Piece(file, stored))

    def skeletons(self) -> list[Json]:
        """The tree specs that the files carry, one for each copy."""
        return [file.about["tree"] for file in self.files if "tree" in file.about]

    def in_parts(self) -> frozenset[str]:
        """Names of the tensors that were saved in parts."""
        found = ((name, piece.stored.box) for name, pieces in self._pieces.items() for piece in pieces)
        return frozenset(name for name, box in found if box.sizes != box.shape)

    def abstract(self, name: str) -> torch.Tensor:
        """The whole tensor, without data; an empty one where there is none of this name."""
        if name not in self._pieces:
            return torch.empty(0, device="meta")
        stored = self._pieces[name][0].stored
        return torch.empty(stored.box.shape, dtype=stored.dtype, device="meta")

    def position(self, name: str) -> tuple[int, int]:
        """Of its first part: the number of the file, and the byte in it."""
        first = self._pieces[name][0]
        return self.files.index(first.file), first.stored.start

    def problem(self, name: str, live: Any) -> str:
        """Why the tensor cannot be read for the place of the live value, or nothing."""
        pieces = self._pieces.get(name, [])
        if not pieces:
            return f"tensor {name!r} is in none of its files"
        box = self._needed(name, live)
        parts = list(self._parts(name, box))
        if sum(common.elements for _, common in parts) != box.elements:
            return f"tensor {name!r}: not all of its parts are in the checkpoint"
        if any(piece.stored.dtype != pieces[0].stored.dtype for piece in pieces):
            return f"tensor {name!r}: its parts have different dtypes"
        return ""

    def conflicts(self) -> list[str]:
        """Names of tensors of which the copies hold different values."""
        found = []
        for name, pieces in self._pieces.items():
            blocks = {piece.stored.box: piece.stored.blocks for piece in pieces}
            if any(piece.stored.blocks != blocks[piece.stored.box] for piece in pieces):
                found.append(name)
        return found

    def read(self, name: str, live: Any) -> torch.Tensor:
        """The tensor, sharded as the live one is if that has the same shape; on the CPU if it is not sharded.

        Needs the memory of the result and of one bucket. Raises IntegrityError for bytes that are not as written.
        """
        box = self._needed(name, live)
        if (name, box) not in self._read:
            self._read[name, box] = self._assemble(name, box)
        local = self._read[name, box]
        return from_local_like(local, live) if is_dtensor(live) and tuple(live.shape) == box.shape else local

    def _needed(self, name: str, live: Any) -> Box:
        shape = self._pieces[name][0].stored.box.shape
        return local_shard(live)[1] if is_dtensor(live) and tuple(live.shape) == shape else Box.full(shape)

    def _parts(self, name: str, box: Box) -> Iterator[tuple[Piece, Box]]:
        """The stored parts that have elements of the box, each box once, with what they have in common."""
        seen: set[Box] = set()
        for piece in self._pieces[name]:
            common = piece.stored.box.intersection(box)
            if common and piece.stored.box not in seen:
                seen.add(piece.stored.box)
                yield piece, common

    def _assemble(self, name: str, box: Box) -> torch.Tensor:
        local = torch.empty(box.sizes, dtype=self._pieces[name][0].stored.dtype)
        for piece, common in self._parts(name, box):
            if piece.stored.box == box:
                piece.file.read(name, 0, _bytes(local))
            else:
                _copy(
                    piece,
                    name,
                    common.slices_within(piece.stored.box),
                    0,
                    piece.stored.box.sizes,
                    local[common.slices_within(box)],
                )
        return local


def _copy(
    piece: Piece, name: str, take: tuple[slice, ...], start: int, sizes: tuple[int, ...], target: torch.Tensor
) -> None:
    """Copy the elements `take` of an array of these sizes, which starts at element `start` of a part, in buckets."""
    width = piece.stored.dtype.itemsize
    row = prod(sizes[1:])
    at_once = max(1, BUCKET // (row * width))
    if row * width > BUCKET and len(sizes) > 1:
        for number, index in enumerate(range(take[0].start, take[0].stop)):
            _copy(piece, name, take[1:], start + index * row, sizes[1:], target[number])
        return
    for first in range(take[0].start, take[0].stop, at_once):
        rows = min(at_once, take[0].stop - first)
        bucket = torch.empty((rows, *sizes[1:]), dtype=piece.stored.dtype)
        piece.file.read(name, (start + first * row) * width, _bytes(bucket))
        done = first - take[0].start
        target[done : done + rows].copy_(bucket[(slice(None), *take[1:])])


def _bytes(tensor: torch.Tensor) -> memoryview:
    """The memory of a fresh contiguous tensor."""
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy().data) if tensor.numel() else memoryview(b"")
