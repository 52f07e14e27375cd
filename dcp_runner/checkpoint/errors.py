"""Errors of the checkpoint core.

CheckpointError                 what every living rank raises, with the same text, when a phase failed anywhere
├ what one rank found, and the type that its Failure carries:
UnstorableError(TypeError)      a state holds something that the format has no place for
IntegrityError(ValueError)      bytes on disk are not those that were written
FileAccessError(OSError)        a file cannot be read or written, for a reason that says nothing about its bytes
NewerFormatError(RuntimeError)  a checkpoint was written by a newer version
MismatchError(ValueError)       a checkpoint does not fit the live objects
DivergedError(ValueError)       holders of one copy hold different values
TilingError(ValueError)         the parts of a tensor, over all ranks, are not the tensor
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


class UnstorableError(TypeError):
    """A state holds values that the format has no place for; the text lists all of them by path and type."""


class IntegrityError(ValueError):
    """A file of a checkpoint is missing, truncated or altered."""


class FileAccessError(OSError):
    """A file cannot be read or written; the text has its path and the cause. Its bytes may be as they should be."""


class NewerFormatError(RuntimeError):
    """A checkpoint is in a format that this version does not know; the text has both formats."""


class SupersededError(RuntimeError):
    """A newer attempt of the run has taken over the folder of its checkpoints."""


class MismatchError(ValueError):
    """A checkpoint and the live objects do not fit; the text lists everything that differs."""


class DivergedError(ValueError):
    """State that is declared equal on several ranks is not."""


class TilingError(ValueError):
    """The ranks hold parts of a tensor that overlap, or that leave something out."""


@dataclass(frozen=True)
class Failure:
    """What went wrong on one rank. `consequence` marks an error that another rank's failure caused (a broken
    connection).
    """

    rank: int
    host: str
    type: str
    message: str
    consequence: bool = False


class CheckpointError(RuntimeError):
    """The common outcome of a failed phase: equal on all living ranks.

    `phase` is the phase that failed, `failures` the ranks at fault (a silent rank is one of them), `alive` the
    ranks that answered.
    """

    def __init__(self, phase: str, failures: Sequence[Failure], alive: Sequence[int], kept: str = "") -> None:
        self.phase = phase
        self.failures = tuple(failures)
        self.alive = tuple(alive)
        super().__init__(describe(phase, failures) + kept)

    @property
    def types(self) -> frozenset[str]:
        """Type names of the failures, as `IntegrityError`."""
        return frozenset(failure.type for failure in self.failures)

    @property
    def reasons(self) -> str:
        """The messages of the failures, each once, in one line."""
        return "; ".join(dict.fromkeys(failure.message for failure in self.failures))


def describe(phase: str, failures: Sequence[Failure]) -> str:
    """One paragraph for each different message, with the ranks that reported it."""
    reporters: dict[tuple[str, str], list[Failure]] = {}
    for failure in failures:
        reporters.setdefault((failure.type, failure.message), []).append(failure)
    lines = [f"checkpoint phase '{phase}' failed"]
    for (kind, message), group in reporters.items():
        ranks = rank_text(failure.rank for failure in group)
        hosts = ", ".join(sorted({failure.host for failure in group if failure.host}))
        noun = "rank" if len(group) == 1 else "ranks"
        lines.append(f"  {noun} {ranks}{' on ' + hosts if hosts else ''}: {kind}: {message}")
    return "\n".join(lines)


def rank_text(ranks: Iterable[int]) -> str:
    """Ranks as people write them: `0-3,6`."""
    runs: list[list[int]] = []
    for rank in sorted(ranks):
        if runs and rank == runs[-1][1] + 1:
            runs[-1][1] = rank
        else:
            runs.append([rank, rank])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)


def ranks_of(text: str) -> tuple[int, ...]:
    """The inverse of `rank_text`."""
    ranks: list[int] = []
    for run in filter(None, text.split(",")):
        low, _, high = run.partition("-")
        ranks.extend(range(int(low), int(high or low) + 1))
    return tuple(ranks)
