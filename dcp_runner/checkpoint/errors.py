"""Errors of the checkpoint core.

CheckpointError                 what every living rank raises, with the same text, when a phase failed anywhere
├ what one rank found, and the type that its Failure carries:
UnsupportedStateError(TypeError)      a state holds something that the format has no place for
IntegrityError(ValueError)      bytes on disk are not those that were written
FileAccessError(OSError)        a file cannot be read or written, for a reason that says nothing about its bytes
NewerFormatError(RuntimeError)  a checkpoint was written by a newer version
MismatchError(ValueError)       a checkpoint does not fit the live objects
ReplicaMismatchError(ValueError)       holders of one copy hold different values
SupersededError(RuntimeError)   a newer claim of the folder stands
OccupiedError(RuntimeError)     a living process of this host has claimed the folder
ForeignError(ValueError)        a folder belongs to another run
TilingError(ValueError)         the parts of a tensor, over all ranks, are not the tensor
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dcp_runner.common.errors import UserError
from dcp_runner.common.ranks import rank_text


class UnsupportedStateError(UserError, TypeError):
    """A state holds values that the format has no place for; the text lists all of them by path and type."""


class IntegrityError(UserError, ValueError):
    """A file of a checkpoint is missing, truncated or altered."""


class NewerFormatError(UserError, RuntimeError):
    """A checkpoint is in a format that this version does not know; the text has both formats."""


class SupersededError(UserError, RuntimeError):
    """A newer attempt of the run has taken over the folder of its checkpoints."""


class OccupiedError(UserError, RuntimeError):
    """A process that is alive on this host has claimed the folder of the checkpoints."""


class ForeignError(UserError, ValueError):
    """A run folder, or a folder of checkpoints, belongs to another run."""


class MismatchError(UserError, ValueError):
    """A checkpoint and the live objects do not fit; the text lists everything that differs."""


class ReplicaMismatchError(UserError, ValueError):
    """State that is declared equal on several ranks is not."""


class TilingError(UserError, ValueError):
    """The ranks hold parts of a tensor that overlap, or that leave something out."""


@dataclass(frozen=True)
class RankFailure:
    """What went wrong on one rank. `consequence` marks an error that another rank's failure caused (a broken
    connection).
    """

    rank: int
    host: str
    type: str
    message: str
    consequence: bool = False


class CheckpointError(UserError, RuntimeError):
    """The common outcome of a failed phase: equal on all living ranks.

    `phase` is the phase that failed, `failures` the ranks at fault (a silent rank is one of them), `alive` the
    ranks that answered.
    """

    def __init__(self, phase: str, failures: Sequence[RankFailure], alive: Sequence[int], kept: str = "") -> None:
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


def describe(phase: str, failures: Sequence[RankFailure]) -> str:
    """One paragraph for each different message, with the ranks that reported it."""
    reporters: dict[tuple[str, str], list[RankFailure]] = {}
    for failure in failures:
        reporters.setdefault((failure.type, failure.message), []).append(failure)
    lines = [f"checkpoint phase '{phase}' failed"]
    for (kind, message), group in reporters.items():
        ranks = rank_text(failure.rank for failure in group)
        hosts = ", ".join(sorted({failure.host for failure in group if failure.host}))
        noun = "rank" if len(group) == 1 else "ranks"
        lines.append(f"  {noun} {ranks}{' on ' + hosts if hosts else ''}: {kind}: {message}")
    return "\n".join(lines)
