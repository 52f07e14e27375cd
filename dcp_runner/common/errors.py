"""Errors that a user can fix: their text says it all, so every program of ours shows them without a traceback."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

FAILED, BAD_INPUT = 1, 2
"""Exit codes of a run that failed, and of a configuration or command that was refused."""


class UserError(Exception):
    """Base of all errors whose reader can fix the cause. Whether an error is one decides, everywhere, whether its
    text is shown or its traceback.
    """

    exit_code = FAILED
    """Of a program that ends because of it."""

    @property
    def report(self) -> str:
        """What the program prints."""
        return f"FAILED: {self}"

    def __reduce__(self) -> tuple[Any, ...]:
        """Whatever a constructor takes, the error comes out of another process as it went in."""
        return _unpickled, (type(self), self.args, self.__dict__)


def _unpickled(kind: type[UserError], args: tuple[Any, ...], state: dict[str, Any]) -> UserError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class FileAccessError(UserError, OSError):
    """A file cannot be read or written; the text has its path and the cause. Its bytes may be intact."""


class ConfigError(UserError, ValueError):
    """Everything that is wrong with a configuration or a command line, in one report."""

    exit_code = BAD_INPUT

    def __init__(self, *problems: str) -> None:
        self.problems = tuple(problems)
        listed = "".join(f"\n  * {problem}" for problem in problems)
        super().__init__(problems[0] if len(problems) == 1 else f"{len(problems)} problems:{listed}")

    @property
    def report(self) -> str:
        count = f"{len(self.problems)} problems" if len(self.problems) > 1 else "1 problem"
        return "\n".join([f"{count}, nothing was started:", *(f"  * {problem}" for problem in self.problems)])


def show(error: UserError) -> int:
    """Print the report of an error; the exit code that goes with it."""
    print(error.report, file=sys.stderr)
    return error.exit_code


def exit_with(error: UserError) -> NoReturn:
    """End this program because of an error, without a traceback."""
    raise SystemExit(show(error))


@contextmanager
def showing_user_errors() -> Iterator[None]:
    """Around a whole program (`with`, or as a decorator): a user error ends it without a traceback."""
    try:
        yield
    except UserError as error:
        exit_with(error)
