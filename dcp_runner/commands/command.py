"""What a command of `dcp-runner` is: a name, one line of help, its arguments and a function."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import dataclass

FAILED, BAD_INPUT, NO_ANSWER = 1, 2, 3
"""Exit codes: a job has failed or a request was refused; a mistake of the caller; the scheduler does not answer."""


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


class CommandError(Exception):
    """Why a command cannot be carried out: shown as one line, and the command exits with `code`."""

    def __init__(self, message: object, code: int = BAD_INPUT) -> None:
        super().__init__(str(message))
        self.code = code
