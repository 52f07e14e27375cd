"""Errors of the training loop."""

from __future__ import annotations

from dcp_runner.common.errors import UserError


class TrainError(UserError, RuntimeError):
    """What a run cannot continue from, and the remedy; raised alike on all ranks."""


class NonFiniteError(TrainError):
    """A loss or the gradients of a step are not finite. Raised before the step changes anything."""
