"""The loss of a language model."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def next_token(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy in nats per token, as a float32 scalar, whatever the dtype of the logits.

    `logits` has shape (..., vocab_size), `targets` is int64 of shape (...): the token that each position is to predict.
    """
    return F.cross_entropy(logits.flatten(0, -2).float(), targets.flatten())
