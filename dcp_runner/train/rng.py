"""Saves and restores the random generators around code that draws from them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dcp_runner.checkpoint.state.rng import RngState


@contextmanager
def preserve_rng() -> Iterator[None]:
    """Restore all random generators afterwards."""
    rng = RngState()
    before = rng.state_dict()
    try:
        yield
    finally:
        rng.load_state_dict(before)
