"""The loss is torch's cross entropy, in float32."""

from __future__ import annotations

import pytest
import torch

from dcp_runner.models.loss import next_token


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_it_equals_torchs(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 5, 7, generator=generator).to(dtype)
    targets = torch.randint(7, (3, 5), generator=generator)
    loss = next_token(logits, targets)
    expected = torch.nn.CrossEntropyLoss()(logits.float().transpose(1, 2), targets)
    assert loss.dtype == torch.float32 and loss.shape == ()
    torch.testing.assert_close(loss, expected)


def test_it_is_the_mean_over_tokens() -> None:
    logits = torch.zeros(2, 3, 4)
    assert next_token(logits, torch.ones(2, 3, dtype=torch.int64)).item() == pytest.approx(
        torch.tensor(4.0).log().item()
    )
