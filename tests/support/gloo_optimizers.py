"""Optimizers of every kind: torch's own, those of pytorch_optimizer that keep their state elsewhere, and some of other people's
shapes. Each is made of a model's parameters, and steps as its users have it step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytorch_optimizer as more
import torch
from torch import nn
from torch.distributed.tensor import DTensor, Replicate
from torch.optim import Optimizer

Maker = Callable[[nn.Module], Optimizer]


class Statistics(Optimizer):
    """Keeps, of a matrix, a mean for each row and each column, in a list too; and, if asked, plain tensors of shapes of their own,
    one of them not row by row.
    """

    def __init__(self, params: Iterable[Any], plain: bool = False) -> None:
        super().__init__(params, {"lr": 0.05, "plain": plain})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                squares = p.grad.square() + 1e-8
                means = [_settled(squares.mean(dim, keepdim=True)) for dim in range(p.ndim)]
                first = _settled(squares.mean(0)) if p.ndim > 1 else squares
                state = self.state[p]
                if not state:
                    state |= {"steps": 0, "means": [torch.zeros_like(mean) for mean in means]}
                    state["first"] = torch.zeros_like(first)
                    if group["plain"]:
                        state |= {"plain": torch.zeros(5), "turned": torch.arange(35.0).view(5, 7).t()}
                state["steps"] += 1
                for mean, new in zip([*state["means"], state["first"]], [*means, first], strict=True):
                    mean.lerp_(new, 0.1)
                shrink = 1.0
                if group["plain"]:
                    state["plain"] += state["steps"]
                    shrink += float((state["turned"] @ state["plain"]).sum() / 1e4)
                p.addcdiv_(p.grad, (sum(state["means"]) + state["first"]).sqrt(), value=-group["lr"] / shrink)


class Alone(Optimizer):
    """Has another one in it of which its own state_dict() has nothing, as many a SAM."""

    def __init__(self, params: Iterable[Any], base: Any, **options: Any) -> None:
        super().__init__(params, options)
        self.base = base(self.param_groups, **options)
        self.param_groups = self.base.param_groups

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                kept = self.state[p].setdefault("slow", p.detach().clone())
                kept.lerp_(p.detach(), 0.5)
                p.grad.add_(kept, alpha=0.1)
        self.base.step()


class Several(Optimizer):
    """Has optimizers with groups of their own, for matrices and for the rest."""

    def __init__(self, model: nn.Module) -> None:
        every = [*model.parameters()]
        super().__init__(every, {})
        matrices = [p for p in every if p.ndim == 2]
        rest = [p for p in every if p.ndim != 2]
        self.inside = [torch.optim.SGD(matrices, 0.05, momentum=0.9), torch.optim.AdamW(rest, 0.01)]

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for one in self.inside:
            one.step()
            one.param_groups[0]["lr"] *= 0.9


class Total(torch.optim.SGD):
    """Keeps a sum over all parameters."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        with torch.no_grad():
            self.state["total"] = sum(p.square().sum() for p in self.param_groups[0]["params"]) + self.state.get(
                "total", 0
            )
        for p in self.param_groups[0]["params"]:
            p.grad.div_(1 + _settled(self.state["total"]))
        self.state["total"] = _settled(self.state["total"])
        super().step()


def _settled(value: torch.Tensor) -> torch.Tensor:
    """Without a sum that is not made yet."""
    partial = isinstance(value, DTensor) and any(one.is_partial() for one in value.placements)
    return value.redistribute(placements=[Replicate()] * value.device_mesh.ndim) if partial else value


def _matrices(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.ndim == 2]


def _muon(cls: Any, model: nn.Module) -> Optimizer:
    rest = [parameter for parameter in model.parameters() if parameter.ndim != 2]
    return cls([{"params": _matrices(model), "use_muon": True}, {"params": rest, "use_muon": False}])


adam: Any = torch.optim.AdamW
TORCH: dict[str, Maker] = {
    "SGD": lambda m: torch.optim.SGD(m.parameters(), 0.05),
    "SGD nesterov": lambda m: torch.optim.SGD(m.parameters(), 0.05, momentum=0.9, nesterov=True),
    "Adam amsgrad": lambda m: torch.optim.Adam(m.parameters(), 0.01, amsgrad=True),
    "AdamW": lambda m: adam(m.parameters(), 0.01),
    "AdamW fused": lambda m: adam(m.parameters(), 0.01, fused=True),
    "AdamW foreach": lambda m: adam(m.parameters(), 0.01, foreach=True),
    "Adadelta": lambda m: torch.optim.Adadelta(m.parameters(), 0.5),
    "Adafactor": lambda m: torch.optim.Adafactor(m.parameters(), 0.1),
    "Adagrad": lambda m: torch.optim.Adagrad(m.parameters(), 0.1),
    "Adamax": lambda m: torch.optim.Adamax(m.parameters(), 0.01),
    "ASGD": lambda m: torch.optim.ASGD(m.parameters(), 0.05, t0=2),
    "LBFGS": lambda m: torch.optim.LBFGS(m.parameters(), 0.5, max_iter=3),
    "Muon": lambda m: torch.optim.Muon(_matrices(m), 0.01),
    "NAdam": lambda m: torch.optim.NAdam(m.parameters(), 0.01),
    "RAdam": lambda m: torch.optim.RAdam(m.parameters(), 0.01),
    "RMSprop": lambda m: torch.optim.RMSprop(m.parameters(), 0.01, centered=True, momentum=0.5),
    "Rprop": lambda m: torch.optim.Rprop(m.parameters(), 0.01),
    "SparseAdam": lambda m: torch.optim.SparseAdam(m.parameters(), 0.01),
}
"""All of torch.optim; SparseAdam wants gradients of its own."""
OTHERS: dict[str, Maker] = {
    "Lookahead": lambda m: more.Lookahead(adam(m.parameters(), 0.01), k=2),
    "Lookahead of Ranger21": lambda m: more.Lookahead(more.Ranger21(m.parameters(), num_iterations=20), k=2),
    "TRAC": lambda m: more.TRAC(adam(m.parameters(), 0.01)),
    "SAM": lambda m: more.SAM(m.parameters(), adam, lr=0.01),
    "FriendlySAM": lambda m: more.FriendlySAM(m.parameters(), adam, lr=0.01),
    "MADGRAD": lambda m: more.MADGRAD(m.parameters(), lr=0.01),
    "Lion": lambda m: more.Lion(m.parameters(), lr=0.01, foreach=False),
    "Prodigy": lambda m: more.Prodigy(m.parameters(), lr=0.1),
    "ScheduleFreeAdamW": lambda m: more.ScheduleFreeAdamW(m.parameters(), lr=0.01, foreach=False),
    "ScheduleFreeWrapper": lambda m: more.ScheduleFreeWrapper(adam(m.parameters(), 0.01)),
    "SPAM": lambda m: more.SPAM(m.parameters(), lr=0.01),
    "Magma": lambda m: more.Magma(adam(m.parameters(), 0.01)),
    "EmoNavi": lambda m: more.EmoNavi(m.parameters(), lr=0.01),
    "SOAP": lambda m: more.SOAP(m.parameters(), lr=0.01),
    "SPlus": lambda m: more.SPlus(m.parameters(), lr=0.01),
    "Shampoo": lambda m: more.Shampoo(m.parameters(), lr=0.01),
    "AdaMuon": lambda m: _muon(more.AdaMuon, m),
    "AggMo": lambda m: more.AggMo(m.parameters(), lr=0.01),
    "statistics": lambda m: Statistics(m.parameters()),
    "statistics and more": lambda m: Statistics(m.parameters(), plain=True),
    "total": lambda m: Total(m.parameters(), 0.05),
    "one inside": lambda m: Alone(m.parameters(), adam, lr=0.01),
    "several inside": lambda m: Several(m),
}


def train(model: nn.Module, optimizer: Optimizer, steps: Iterable[int], width: int = 3) -> None:
    """These steps: the data depends on the step alone."""
    switch = getattr(optimizer, "train", None)
    if callable(switch):
        switch()
    for step in steps:
        inputs = torch.randn(8, width, generator=torch.Generator().manual_seed(step))

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = (model(inputs) - 1).square().mean()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        torch.manual_seed(step)  # some draw random numbers when they step
        closure()
        optimizer.step(closure)
