"""What one load is asked to do."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from dcp_runner.checkpoint.config import Check
from dcp_runner.checkpoint.files.catalog import BEST_BY, BestBy


@dataclass(frozen=True)
class LoadRequest:
    """One call of `load`; the same on every rank."""

    which: int | str | Path
    best_by: BestBy = BEST_BY
    strict: bool = True
    skip: Collection[str] = ()
    """Components that stay as they are."""
    fresh: Collection[str] = ()
    """Components that are reset, as if the checkpoint had no copy for them."""
    check: Check = Check.all
