"""Counts what a command does before its ranks start: compositions, typings, checks and models built."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl

from dcp_runner.config import convert
from dcp_runner.launch.preflight import build_checks, config_checks
from dcp_runner.models.gpt import GPT

FILE = "TEST_COUNTS"
"""Environment variable with the file to which each event adds a line."""


class CountedModel(GPT):
    """Each one that is built is counted."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        _add("model")


def counted(program: Callable[[], None]) -> Callable[[], None]:
    """The program, in a process of its own, with every event counted; one inside another of its kind is the same."""

    def main() -> None:
        _count(ConfigLoaderImpl.load_configuration, "composition")
        for function, event in (
            (convert.load, "typing"),
            (convert.from_plain, "typing"),
            (config_checks.check_config, "check"),
            (build_checks.check_targets, "target check"),
        ):
            _count(function, event)
        program()

    return main


def events(file: Path) -> dict[int, Counter[str]]:
    """What each process did, those that did something."""
    found: dict[int, Counter[str]] = {}
    for line in file.read_text().splitlines():
        pid, event = line.split(" ", 1)
        found.setdefault(int(pid), Counter())[event] += 1
    return found


def _count(function: Callable[..., Any], event: str) -> None:
    @wraps(function)
    def counting(*args: Any, **kwargs: Any) -> Any:
        if event not in _running:
            _add(event)
        _running.append(event)
        try:
            return function(*args, **kwargs)
        finally:
            _running.remove(event)

    for owner in [ConfigLoaderImpl, *sys.modules.values()]:
        for name, value in list(vars(owner).items()):
            if value is function:
                setattr(owner, name, counting)


_running: list[str] = []


def _add(event: str) -> None:
    with Path(os.environ[FILE]).open("a") as file:
        file.write(f"{os.getpid()} {event}\n")
