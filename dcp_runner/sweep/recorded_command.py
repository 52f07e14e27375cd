"""`resume_sweep=DIR` on a command line repeats the command that made the sweep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dcp_runner.launch.preflight.report import exit_with_problems
from dcp_runner.sweep.record import read

RESUME = "resume_sweep"


def expand_resume_sweep(arguments: Sequence[str]) -> list[str]:
    """Add the arguments that made the sweep to these; where both set a key, these win."""
    given = {text.partition("=")[0]: text.partition("=")[2] for text in arguments if "=" in text}
    folder = given.get(RESUME)
    if not folder:
        return list(arguments)
    try:
        recorded = read(Path(folder)).command
    except FileNotFoundError as error:
        exit_with_problems([f"{RESUME}={error}"])
    given["hydra.sweep.dir"] = folder
    old = [text for text in recorded if text.partition("=")[0] not in given and text not in arguments]
    return sorted(
        [*old, *arguments, f"hydra.sweep.dir={folder}"], key=_is_override
    )  # Hydra requires its flags to be adjacent


def _is_override(text: str) -> bool:
    return text.startswith("~") or ("=" in text and not text.startswith("-"))
