"""How much disk space the checkpoints of a run will need, and whether it is available."""

from __future__ import annotations

import shutil
from math import ceil
from pathlib import Path

from dcp_runner.checkpoint.config import CheckpointConfig


def count_saves(config: CheckpointConfig, steps: int) -> int | None:
    """How many checkpoints a run of `steps` optimizer steps saves; None: that depends on the clock."""
    if config.every_minutes is not None:
        return None
    regular = steps // config.every_steps if config.every_steps else 0
    last = config.at_end and not (config.every_steps and steps % config.every_steps == 0)
    return regular + last


def max_on_disk(config: CheckpointConfig, steps: int) -> int | None:
    """The largest number of checkpoints on disk at any time in a run of `steps` steps; None: unbounded.

    A save is committed before old checkpoints are deleted, so it is one more than the rules keep.
    """
    keep, saved = config.keep, count_saves(config, steps)
    if keep.last is None:
        return saved
    kept = keep.last + keep.best + (ceil(steps / keep.every) if keep.every else 0) + 1
    return kept if saved is None else min(kept, saved)


def forecast_disk_use(config: CheckpointConfig, steps: int, size: int | None, root: Path) -> tuple[str, bool]:
    """A text about the disk space that the checkpoints of a run will need and that is free, and whether it is enough.

    `steps` are the remaining steps; each checkpoint has `size` bytes (None: unknown). Checkpoints that are already in
    `root` are not counted.
    """
    count = max_on_disk(config, steps)
    free = shutil.disk_usage(_nearest_existing(root)).free
    available = f"{human_size(free)} free in {root}"
    each = "unknown size" if size is None else f"about {human_size(size)}"
    if count is None:
        return f"DISK: checkpoints of {each}, and none is deleted (checkpoint.keep.last=null); {available}", True
    what = f"{count} checkpoint{'s' if count != 1 else ''} of {each}"
    if size is None:
        return f"DISK: up to {what} at once; {available}", True
    return f"DISK: up to {what} at once, {human_size(count * size)} in total; {available}", count * size <= free


def _nearest_existing(folder: Path) -> Path:
    """The folder, or the nearest folder above it that exists."""
    return next(path for path in (folder, *folder.parents) if path.is_dir())


def human_size(size: float) -> str:
    """A number of bytes for people: `3.5 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.4g} {unit}"
        size /= 1000
    return f"{size:.4g} TB"
