"""The model is causal, learns, and can be built where there is no memory for it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dcp_runner.models.gpt import GPT
from dcp_runner.models.loss import next_token


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def small(**changes: object) -> GPT:
    options = dict(vocab_size=50, context=16, layers=2, heads=2, width=32)
    return GPT(**(options | changes))  # type: ignore[arg-type]


def tokens(batch: int = 2, time: int = 16) -> Tensor:
    return torch.randint(50, (batch, time))


def test_logits_have_one_row_a_token_also_for_short_sequences() -> None:
    assert small()(tokens()).shape == (2, 16, 50)
    assert small()(tokens(3, 5)).shape == (3, 5, 50)


def test_a_token_does_not_see_the_future() -> None:
    model, before = small(), tokens(1)
    after = before.clone()
    after[:, 9:] = (before[:, 9:] + 1) % 50
    difference = (model(before) - model(after)).abs().amax(dim=(0, 2))
    assert torch.equal(difference[:9], torch.zeros(9))
    assert (difference[9:] > 0).all()


def test_a_token_sees_the_past_and_its_place() -> None:
    model, before = small(), tokens(1)
    after = before.clone()
    after[:, 0] = (before[:, 0] + 1) % 50
    assert (model(before) - model(after)).abs()[0, -1].max() > 0
    same = model(torch.full((1, 16), 7))[0]
    assert not torch.allclose(same[3], same[4])


@pytest.mark.parametrize("tied", [True, False])
def test_it_learns_a_tiny_batch(tied: bool) -> None:
    model, batch = small(tied=tied), tokens(4, 16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        loss = next_token(model(batch[:, :-1]), batch[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert abs(losses[0] - math.log(50)) < 0.2, "an untrained model knows nothing"
    assert losses[-1] < 0.3


def test_every_parameter_gets_a_gradient() -> None:
    model = small(tied=False)
    next_token(model(tokens()), tokens()).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_tied_weights_are_one_parameter() -> None:
    tied, untied = small(tied=True), small(tied=False)
    assert tied.head.weight is tied.embed.weight
    assert sum(p.numel() for p in untied.parameters()) - sum(p.numel() for p in tied.parameters()) == 50 * 32


def test_initialisation_is_that_of_gpt_2() -> None:
    model = GPT(layers=8)
    block = model.blocks[0]
    assert model.embed.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert block.mlp.grow.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert block.mlp.shrink.weight.std().item() == pytest.approx(0.02 / 4, rel=0.05)
    assert block.attention.out.weight.std().item() == pytest.approx(0.02 / 4, rel=0.05)
    assert block.attention.query.bias.abs().max() == 0
    assert torch.equal(block.mlp_norm.weight, torch.ones(128))


def test_dropout_acts_in_training_only() -> None:
    model, batch = small(dropout=0.5), tokens()
    assert not torch.equal(model(batch), model(batch))
    model.eval()
    assert torch.equal(model(batch), model(batch))


def test_it_is_built_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = GPT(width=4096, heads=32, layers=2)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert model(torch.zeros(1, 4, dtype=torch.int64, device="meta")).shape == (1, 4, 256)
    assert list(model.state_dict()) == list(GPT(layers=2).state_dict())


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="width must be a multiple of heads=3, found 32"):
        small(heads=3)
    with pytest.raises(ValueError, match="at most context=16 tokens, found 17"):
        small()(tokens(1, 17))
