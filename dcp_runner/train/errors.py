"""Errors of the training that people see as they are, without a traceback."""

from __future__ import annotations


class TrainError(RuntimeError):
    """What a run cannot go on from, and the remedy; raised alike on all ranks."""


class NonFiniteError(TrainError):
    """A loss or the gradients of a step are not finite. Raised before the step changes anything."""
