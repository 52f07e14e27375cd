"""Which ranks disagree with the majority. Pure: every rank that has all claims finds the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dcp_runner.common.ranks import rank_text

ABSENT = "absent"
"""The claim of a rank about a subject that it does not name."""


@dataclass(frozen=True)
class Disagreement:
    """A subject of which the ranks claim different things."""

    subject: str
    ranks_by_claim: Mapping[str, tuple[int, ...]]
    outliers: tuple[int, ...]
    """The ranks outside the majority; all of them on a tie."""

    def __str__(self) -> str:
        tie = len(self.outliers) == sum(map(len, self.ranks_by_claim.values()))
        where = "between ranks" if tie else f"on rank {rank_text(self.outliers)}"
        sides = "; ".join(f"rank {rank_text(ranks)}: {claim}" for claim, ranks in self.ranks_by_claim.items())
        return f"{self.subject} differs {where} ({sides})"


def disagreements(claims: Sequence[Mapping[str, str]]) -> list[Disagreement]:
    """The subjects that differ, in alphabetical order; `claims` are those of each rank, by subject."""
    found = []
    for subject in sorted({subject for by_subject in claims for subject in by_subject}):
        labels = [by_subject.get(subject, ABSENT) for by_subject in claims]
        if len(set(labels)) > 1:
            ranks = {label: tuple(r for r, other in enumerate(labels) if other == label) for label in labels}
            found.append(Disagreement(subject, ranks, minority(list(enumerate(labels)))))
    return found


def minority(labels: Sequence[tuple[int, str]]) -> tuple[int, ...]:
    """The ranks that are not with the majority; on a tie all of them."""
    counts: dict[str, int] = {}
    for _, label in labels:
        counts[label] = counts.get(label, 0) + 1
    most = max(counts.values())
    winners = [label for label, count in counts.items() if count == most]
    return tuple(rank for rank, label in labels if len(winners) > 1 or label != winners[0])
