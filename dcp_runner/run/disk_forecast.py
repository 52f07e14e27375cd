"""How much disk the checkpoints of a run will need, and whether it is there."""

from __future__ import annotations

import shutil
from math import ceil
from pathlib import Path

from dcp_runner.checkpoint.config import CheckpointConfig


def saves(config: CheckpointConfig, steps: int) -> int | None:
    """Checkpoints that a run of so many optimizer steps makes; None: their number depends on the clock."""
    if config.every_minutes is not None:
        return None
    regular = steps // config.every_steps if config.every_steps else 0
    last = config.at_end and not (config.every_steps and steps % config.every_steps == 0)
    return regular + last


def most_at_once(config: CheckpointConfig, steps: int) -> int | None:
    """Checkpoints that lie on the disk together at most, in a run of so many steps; None: there is no bound.

    A save is committed before those that no rule keeps are deleted, so it is one more than the rules keep.
    """
    keep, made = config.keep, saves(config, steps)
    if keep.last is None:
        return made
    kept = keep.last + keep.best + (ceil(steps / keep.every) if keep.every else 0) + 1
    return kept if made is None else min(kept, made)


def forecast(config: CheckpointConfig, steps: int, size: int | None, root: Path) -> tuple[str, bool]:
    """What the checkpoints of a run will need and what its disk has, for people; and whether that is enough.

    `steps` are still to be done, and each checkpoint has `size` bytes (None: unknown). What lies in `root` already is
    not counted.
    """
    count = most_at_once(config, steps)
    free = shutil.disk_usage(_existing(root)).free
    has = f"{human(free)} free in {root}"
    each = "unknown size" if size is None else f"about {human(size)}"
    if count is None:
        return f"DISK: checkpoints of {each}, and all stay (checkpoint.keep.last=null); {has}", True
    what = f"{count} checkpoint{'s' if count != 1 else ''} of {each}"
    if size is None:
        return f"DISK: up to {what} at once; {has}", True
    return f"DISK: up to {what} at once, {human(count * size)}; {has}", count * size <= free


def _existing(folder: Path) -> Path:
    """It, or the nearest folder above it that exists."""
    return next(path for path in (folder, *folder.parents) if path.is_dir())


def human(size: float) -> str:
    """Bytes as people read them: `3.5 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.4g} {unit}"
        size /= 1000
    return f"{size:.4g} TB"
