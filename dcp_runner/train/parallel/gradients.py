"""The norm of all gradients together, and scaling by it, where plain tensors and DTensors of several meshes are mixed.

Torch's own functions do one kind at a time.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from dcp_runner.checkpoint.state.dtensor import is_dtensor


def total_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The 2-norm of all gradients, each counted once over all ranks that hold a part of it (those ranks call it)."""
    norms = [nn.utils.get_total_norm([p.grad for p in kind if p.grad is not None]) for kind in _kinds(parameters)]
    norms = [_whole(norm) for norm in norms]
    if len(norms) == 1:
        return norms[0]
    return torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros(())


def clip(parameters: Iterable[nn.Parameter], limit: float, norm: Tensor) -> None:
    """Scale all gradients by limit / norm where their norm is larger than the limit."""
    for kind in _kinds(parameters):
        nn.utils.clip_grads_with_norm_(kind, limit, norm)


def _whole(norm: Any) -> Any:
    return norm.full_tensor() if is_dtensor(norm) else norm


def _kinds(parameters: Iterable[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Those with a gradient, by its mesh."""
    kinds: dict[Any, list[nn.Parameter]] = {}
    for parameter in parameters:
        if parameter.grad is not None:
            grad: Any = parameter.grad
            mesh = grad.device_mesh if is_dtensor(grad) else None
            kinds.setdefault(mesh, []).append(parameter)
    return list(kinds.values())
