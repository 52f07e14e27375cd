"""Errors that are shown to people as they are, without a traceback."""

from __future__ import annotations


class FileAccessError(OSError):
    """A file cannot be read or written; the text has its path and the cause. Its bytes may be as they should be."""


class ConfigError(ValueError):
    """Everything that is wrong with a configuration, told at once. Shown to people as it is, without a traceback."""

    def __init__(self, *problems: str) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(f"  * {problem}" for problem in self.problems))
