"""The errors of the checkpoint core; all are user errors (see common/errors.py), each with a builtin base besides.

CheckpointError              a phase failed: raised with the same text on every rank that is still running
└ RankFailure                one of its causes: a rank, and the name and message of the error that the rank raised:
  ├ UnsupportedStateError    a state has values that the format cannot store
  ├ MismatchError            a checkpoint does not fit the live objects
  ├ ReplicaMismatchError     the holders of a copy hold different values
  ├ TilingError              the shards of a tensor, over all ranks, do not add up to the tensor
  ├ IntegrityError           bytes on disk are not those that were written
  ├ MissingCheckpointError   a checkpoint is not there, or was deleted while it was being read
  ├ NewerFormatError         a checkpoint was written by a newer version
  ├ ForeignError             a folder belongs to another run
  ├ OccupiedError            a live process on this host has claimed the checkpoint root
  └ SupersededError          a newer attempt of the run has claimed the checkpoint root

A RankFailure carries any other error of a rank in the same way, such as FileAccessError (common/errors.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dcp_runner.common.errors import FileAccessError, UserError
from dcp_runner.common.ranks import rank_text


class UnsupportedStateError(UserError, TypeError):
    """A state has values that the format cannot store; the message lists all of them by path and type."""


class IntegrityError(UserError, ValueError):
    """A file of a checkpoint is missing, truncated or altered."""


class MissingCheckpointError(FileAccessError, FileNotFoundError):
    """A checkpoint is not there, or was deleted while it was being read."""


class NewerFormatError(UserError, RuntimeError):
    """A checkpoint has a format that this version does not know; the message gives both formats."""


class SupersededError(UserError, RuntimeError):
    """A newer attempt of the run has claimed the checkpoint root."""


class OccupiedError(UserError, RuntimeError):
    """A live process on this host has claimed the checkpoint root."""


class ForeignError(UserError, ValueError):
    """A run folder or a checkpoint root belongs to another run."""


class MismatchError(UserError, ValueError):
    """A checkpoint does not fit the live objects; the message lists everything that differs."""


class ReplicaMismatchError(UserError, ValueError):
    """State that is declared equal on several ranks is not equal."""


class TilingError(UserError, ValueError):
    """The shards of a tensor on the ranks overlap, or leave elements out."""


@dataclass(frozen=True)
class RankFailure:
    """What went wrong on one rank; `consequence` marks an error that only followed from another rank's failure, such
    as a broken connection.
    """

    rank: int
    host: str
    type: str
    message: str
    consequence: bool = False


class CheckpointError(UserError, RuntimeError):
    """A phase of a save or a load failed; raised with the same text on all ranks that are still running.

    `phase` names the phase, `failures` has the ranks at fault (a rank that stopped responding is one of them), and
    `alive` has the ranks that responded.
    """

    def __init__(self, phase: str, failures: Sequence[RankFailure], alive: Sequence[int], kept: str = "") -> None:
        self.phase = phase
        self.failures = tuple(failures)
        self.alive = tuple(alive)
        super().__init__(describe(phase, failures) + kept)

    @property
    def types(self) -> frozenset[str]:
        """The type names of the failures, such as `IntegrityError`."""
        return frozenset(failure.type for failure in self.failures)

    @property
    def reasons(self) -> str:
        """The different messages of the failures in one line."""
        return "; ".join(dict.fromkeys(failure.message for failure in self.failures))


def describe(phase: str, failures: Sequence[RankFailure]) -> str:
    """A line for each different message, with the ranks that reported it."""
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
