"""A model that knows nothing of dcp_runner: Llama from Hugging Face transformers, with random weights."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM


class Llama(LlamaForCausalLM):
    """Takes tokens and gives logits, as tensors; `options` are those of LlamaConfig. The weights have their own names,
    so that transformers opens what is saved.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(LlamaConfig(use_cache=False, **options))

    def forward(self, tokens: Tensor) -> Tensor:
        # On a later stage of a pipeline `tokens` is what the stage before gave, and the embedding passes it through.
        logits: Tensor = self.lm_head(self.model(input_ids=tokens).last_hidden_state)
        return logits
