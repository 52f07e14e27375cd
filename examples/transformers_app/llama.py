"""A model that knows nothing about dcp_runner: Llama from Hugging Face transformers, with random weights."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM


class Llama(LlamaForCausalLM):
    """Maps tokens to logits; `options` are those of LlamaConfig. The weights keep the names that transformers gives
    them, so it can open the saved files.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(LlamaConfig(use_cache=False, **options))

    def forward(self, tokens: Tensor) -> Tensor:
        # On a later pipeline stage `tokens` is the previous stage's output, and the embedding passes it through.
        logits: Tensor = self.lm_head(self.model(input_ids=tokens).last_hidden_state)
        return logits
