"""Optimizers inside optimizers, and their classes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_optimizer as more
import torch
from solo import alone, bits
from torch import nn
from torch.optim import SGD, Optimizer

from dcp_runner import CheckpointError, StateComponent


def test_an_optimizer_with_others_inside_is_not_one_without(tmp_path: Path) -> None:
    def parts(wrapped: bool) -> list[StateComponent]:
        model = nn.Linear(2, 2)
        inner = torch.optim.AdamW(model.parameters(), 0.1)
        optimizer = more.Lookahead(inner) if wrapped else inner
        return [StateComponent("model", model), StateComponent("optimizer", optimizer)]

    for saved, here, told in (
        (True, False, "optimizer in the checkpoint, none here"),
        (False, True, "none in the checkpoint, optimizer here"),
    ):
        folder = tmp_path / str(saved)
        alone(folder, *parts(saved)).save(1)
        with pytest.raises(CheckpointError) as failure:
            alone(folder, *parts(here)).load(1, strict=False)
        assert failure.value.phase == "compare" and told in str(failure.value)


class Thin(Optimizer):
    """Around another optimizer, as Accelerate's is: all that it has is the other one's."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["optimizer"], name)

    def state_dict(self) -> dict[str, Any]:
        return self.optimizer.state_dict()

    def step(self, closure: Any = None) -> Any:
        return self.optimizer.step(closure)


KINDS: dict[str, Callable[[Any], Optimizer]] = {
    "AdamW": lambda params: torch.optim.AdamW(params, 0.1),
    "SGD": lambda params: SGD(params, 0.1, momentum=0.9),
    "Lookahead": lambda params: more.Lookahead(torch.optim.AdamW(params, 0.1)),
    "Lookahead of SGD": lambda params: more.Lookahead(SGD(params, 0.1)),
    "thin": lambda params: Thin(torch.optim.AdamW(params, 0.1)),
}


@pytest.mark.parametrize(
    ("saved", "here", "told"),
    [
        ("AdamW", "SGD", "optimizer: the optimizer was saved by AdamW, but is SGD here; keep it as it was built"),
        ("SGD", "AdamW", "the optimizer was saved by SGD, but is AdamW here"),
        ("SGD", "thin", "the optimizer was saved by SGD, but is AdamW here"),
        ("Lookahead", "Lookahead of SGD", "optimizer was saved by AdamW, but is SGD here"),
        ("AdamW", "thin", ""),
        ("thin", "AdamW", ""),
    ],
)
def test_an_optimizer_of_another_class_is_refused(saved: str, here: str, told: str, tmp_path: Path) -> None:
    def parts(kind: str) -> tuple[Optimizer, list[StateComponent]]:
        model = nn.Linear(2, 2)
        optimizer = KINDS[kind](model.parameters())
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        return optimizer, [StateComponent("model", model), StateComponent("optimizer", optimizer)]

    (first, parts_there), (second, parts_here) = parts(saved), parts(here)
    alone(tmp_path, *parts_there).save(1)
    before = bits(second.state_dict())
    if told:
        with pytest.raises(CheckpointError) as failure:
            alone(tmp_path, *parts_here).load(1, strict=False)
        assert failure.value.phase == "compare" and told in str(failure.value)
        alone(tmp_path, *parts_here).load(1, skip=["optimizer"])
    else:
        alone(tmp_path, *parts_here).load(1)
    assert bits(second.state_dict()) == (before if told else bits(first.state_dict()))
