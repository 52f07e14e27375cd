"""What a command of `dcp-runner` is: a name, one line of help, its arguments and a function."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import dataclass

from dcp_runner.common.errors import BAD_INPUT, UserError

NO_ANSWER = 3
"""Exit code beside FAILED and BAD_INPUT (common/errors.py): the scheduler does not answer."""


@dataclass(frozen=True)
class Command:
    """One command. Its module exports it, and `program.COMMANDS` lists it."""

    name: str
    help: str
    """One line, for the list of commands."""
    add_arguments: Callable[[ArgumentParser], object]
    run: Callable[[Namespace], int]
    """From parsed arguments to an exit code. Heavy imports belong inside.

    Raises:
        CommandError: the command cannot be carried out.
    """


class CommandError(UserError):
    """Why a command cannot be carried out."""

    def __init__(self, message: object, exit_code: int = BAD_INPUT) -> None:
        super().__init__(str(message))
        self.exit_code = exit_code
