"""A text data set made from the sources of Python's standard library, as bytes; every machine has them.

Eleven megabytes of real structure, enough for a small language model to learn something, with nothing to download.
"""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Literal
from zlib import crc32

import torch
from torch import Tensor
from torch.utils.data import Dataset

_SKIPPED = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "__pycache__"}
_BORDER = b"\0"


class StdlibBytes(Dataset[tuple[Tensor, Tensor]]):
    """Windows of bytes from the standard library of the running Python, for next-byte prediction.

    Item i is (inputs, targets), both int64 of shape (context,) with values below 256: the i-th of adjacent windows of
    the text, and the same window shifted by one byte. Each file belongs to one split, by the checksum of its path, so
    that the splits share no text. A zero byte ends each file. The text differs between versions of Python.

    Args:
        split: "train" or "eval".
        context: bytes of a window.
        eval_percent: approximate percentage of the files that go to the eval split.
        limit_mb: truncate the split to this many megabytes (1e6 bytes); None: no limit.

    Raises:
        ValueError: there is no such split, or its text is shorter than one window.
    """

    def __init__(
        self,
        split: Literal["train", "eval"],
        context: int,
        eval_percent: int = 10,
        limit_mb: float | None = None,
    ) -> None:
        if split not in ("train", "eval"):
            raise ValueError(f"split must be train or eval, found {split}")
        root = Path(sysconfig.get_path("stdlib"))
        paths = [path for path in _sources(root) if (_percentile(path) < eval_percent) == (split == "eval")]
        text = bytearray().join((root / path).read_bytes() + _BORDER for path in paths)
        if limit_mb is not None:
            del text[int(limit_mb * 1e6) :]
        if len(text) <= context:
            raise ValueError(
                f"the {split} split must be longer than context={context} bytes, found {len(text)} in {root}"
            )
        self._text = torch.frombuffer(text, dtype=torch.uint8)
        self._context = context

    def __len__(self) -> int:
        return (len(self._text) - 1) // self._context

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(f"index must be below {len(self)}, found {index}")
        start = index * self._context
        window = self._text[start : start + self._context + 1].long()
        return window[:-1], window[1:]


def _sources(root: Path) -> list[str]:
    """The paths of the source files, relative to the root, with forward slashes, sorted."""
    return sorted(path.relative_to(root).as_posix() for path in _walk(root))


def _walk(root: Path) -> Iterator[Path]:
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in _SKIPPED]
        yield from (Path(folder, name) for name in names if name.endswith(".py"))


def _percentile(path: str) -> int:
    return crc32(path.encode()) % 100
