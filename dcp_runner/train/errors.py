"""Errors of the training that are shown to people without a traceback."""

from __future__ import annotations

from dcp_runner.common.errors import UserError


class TrainError(UserError, RuntimeError):
    """The run cannot continue; the text says why and what to do. Raised with the same text on all ranks."""


class NonFiniteError(TrainError):
    """The loss or the gradients of a step are not finite. Raised before the step changes anything."""
