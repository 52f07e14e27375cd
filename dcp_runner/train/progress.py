"""How far a run has come; a component like any other."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class Progress:
    """Counters, equal on all ranks."""

    step: int = 0
    """Optimizer steps done."""
    samples: int = 0
    """Samples consumed, over all ranks."""

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.step, self.samples = state_dict["step"], state_dict["samples"]
