"""A small GPT, written to be read, and to be split.

Query, key and value are separate layers, and the number of heads follows from the size of their outputs, so that
tensor parallelism can split each by columns; the blocks are a plain list, so that a pipeline stage can hold some.
The architecture is GPT-2's (Radford et al.: Language Models are Unsupervised Multitask Learners, 2019).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class GPT(nn.Module):
    """Tokens in, logits of each next token out.

    Args:
        vocab_size: number of different tokens; 256 for bytes.
        context: longest sequence, in tokens.
        layers: number of blocks.
        heads: attention heads of each block.
        width: features of a token between the blocks; a multiple of `heads`.
        dropout: probability that an activation is dropped in training.
        tied: the head uses the embedding's weight, one parameter with two names.

    Raises:
        ValueError: the width is not divisible by the heads.
    """

    def __init__(
        self,
        vocab_size: int = 256,
        context: int = 128,
        layers: int = 4,
        heads: int = 4,
        width: int = 128,
        dropout: float = 0.0,
        tied: bool = True,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width must be a multiple of heads={heads}, found {width}")
        self.context = context
        self.heads = heads
        self.embed = nn.Embedding(vocab_size, width)
        self.positions = nn.Embedding(context, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocab_size, bias=False)
        if tied:
            self.head.weight = self.embed.weight
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """GPT-2's: normal with deviation 0.02, smaller where a block adds to the residual stream, biases zero."""
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif name.endswith("norm.weight"):
                nn.init.ones_(parameter)
            elif name.endswith(("attention.out.weight", "mlp.shrink.weight")):
                nn.init.normal_(parameter, std=0.02 / (2 * len(self.blocks)) ** 0.5)
            else:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of shape (batch, time, vocab_size) for int64 tokens of shape (batch, time).

        Raises:
            ValueError: the sequence is longer than the context.
        """
        time = tokens.shape[1]
        if time > self.context:
            raise ValueError(f"a sequence may have at most context={self.context} tokens, found {time}")
        x = self.embed(tokens) + self.positions(torch.arange(time, device=tokens.device))
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x))
        return logits

    def parallel_plan(self) -> dict[str, Any]:
        """Where this model can be split; the keys are those of `parallel.plan`."""
        return {
            "columns": [*(f"blocks.*.attention.{name}" for name in ("query", "key", "value")), "blocks.*.mlp.grow"],
            "rows": ["blocks.*.attention.out", "blocks.*.mlp.shrink"],
            "heads": self.heads,
            "layers": "blocks",
            "first": {"embed": "pass", "positions": "zero", "dropout": "pass"},
            "last": ["norm", "head"],
        }


class Block(nn.Module):
    """Attention, then the MLP; each takes the normalized residual stream (batch, time, width) and is added to it."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads, dropout)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = MLP(width, dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        x = x + self.mlp(self.mlp_norm(x))
        return x


class Attention(nn.Module):
    """Causal self-attention: a token attends to itself and to earlier tokens."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.head_width = width // heads

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (self._heads(layer(x)) for layer in (self.query, self.key, self.value))
        dropout = self.dropout.p if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True)
        added: Tensor = self.dropout(self.out(mixed.transpose(1, 2).flatten(2)))
        return added

    def _heads(self, x: Tensor) -> Tensor:
        """(batch, time, features) -> (batch, heads, time, head width)."""
        return x.view(*x.shape[:2], -1, self.head_width).transpose(1, 2)


class MLP(nn.Module):
    """Each token independently, through a layer four times as wide."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.grow = nn.Linear(width, 4 * width)
        self.shrink = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.dropout(self.shrink(F.gelu(self.grow(x), approximate="tanh")))
        return added
