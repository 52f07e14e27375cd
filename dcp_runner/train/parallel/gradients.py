"""The norm of all gradients together, and clipping by it, for plain tensors and DTensors of several meshes.

Torch's own functions handle one of these kinds at a time.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from dcp_runner.checkpoint.state.dtensor import is_dtensor


def total_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The 2-norm of all gradients. Each counts once over all ranks that hold a part of it, all of which call this."""
    gradients = [[p.grad for p in group if p.grad is not None] for group in _by_mesh(parameters)]
    norms = [_full(nn.utils.get_total_norm(group)) for group in gradients]
    if len(norms) == 1:
        return norms[0]
    return torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros(())


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float, norm: Tensor) -> None:
    """Scale all gradients by max_norm / norm if their norm is larger than max_norm."""
    for group in _by_mesh(parameters):
        nn.utils.clip_grads_with_norm_(group, max_norm, norm)


def _full(norm: Any) -> Tensor:
    full: Tensor = norm.full_tensor() if is_dtensor(norm) else norm
    return full


def _by_mesh(parameters: Iterable[nn.Parameter]) -> list[list[nn.Parameter]]:
    """The parameters with a gradient, grouped by the gradient's mesh."""
    groups: dict[Any, list[nn.Parameter]] = {}
    for parameter in parameters:
        if parameter.grad is not None:
            grad: Any = parameter.grad
            mesh = grad.device_mesh if is_dtensor(grad) else None
            groups.setdefault(mesh, []).append(parameter)
    return list(groups.values())
