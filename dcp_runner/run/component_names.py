"""The components of every run's training state by name, for checks that build nothing."""

from __future__ import annotations

COMPONENTS = ("model", "optimizer", "scheduler", "dataset", "rng", "progress", "callbacks")
"""Those that `run.build.components_of` makes besides the callbacks that have a sharing of their own."""
