"""Errors of the training."""

from __future__ import annotations

from dcp_runner.run.resume import ResumeError
from dcp_runner.train.errors import NonFiniteError, TrainError


def test_the_errors_of_a_run_have_one_base() -> None:
    """Which the launcher shows without a traceback."""
    assert issubclass(NonFiniteError, TrainError) and issubclass(ResumeError, TrainError)
