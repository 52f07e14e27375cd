"""The same seed and the same global batches give the same losses and gradient norms under every topology."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from runs import evaluations, run, steps
from topologies import ALL, BASE, DDP, FSDP, PP, QUICK, SLOW, TP, text, topology, within, world_of
from torch.distributed.tensor import DTensor

import dcp_runner.train.parallel.pipeline
import dcp_runner.train.parallel.tensor  # noqa: F401  imported once here, not in every fork
from dcp_runner.train.callbacks import Callback, TrainerView

pytestmark = pytest.mark.timeout(180)

Curve = Callable[..., tuple[list[tuple[float, ...]], list[float]]]


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Curve:
    """The curve of one rank with some options; each is made once."""
    for split in ("train", "eval"):
        text(split=split, context=16, **({"limit_mb": 0.1} if split == "eval" else {}))

    @cache
    def curve_of(**options: Any) -> tuple[list[tuple[float, ...]], list[float]]:
        folder = tmp_path_factory.mktemp("single")
        assert run(folder, 1, **BASE | options) == [0]
        return curve(folder)

    return curve_of


def curve(folder: Path) -> tuple[list[tuple[float, ...]], list[float]]:
    """(loss, gradient norm, learning rate) of each step; each evaluation's loss."""
    return [*steps(folder).values()], [*evaluations(folder).values()]


def same_as_single(single: Curve, folder: Path, parallel: dict[str, Any], **options: Any) -> None:
    world = world_of(parallel)
    assert run(folder, world, parallel=parallel, **BASE | options) == [0] * world
    (found, found_evaluations), (expected, expected_evaluations) = curve(folder), single(**options)
    assert len(found) == 3 and len(found_evaluations) == 2
    assert [value for step in found for value in step] == pytest.approx(
        [value for step in expected for value in step], rel=2e-5
    )
    assert found_evaluations == pytest.approx(expected_evaluations, rel=2e-5)


@pytest.mark.parametrize("name", QUICK)
def test_same_as_single(single: Curve, tmp_path: Path, name: str) -> None:
    same_as_single(single, tmp_path, QUICK[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_same_as_single_on_more_ranks(single: Curve, tmp_path: Path, name: str) -> None:
    same_as_single(single, tmp_path, SLOW[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddp-2", "hsdp-2x2", "dp_pp-2x2"])
def test_accumulated(single: Curve, tmp_path: Path, name: str) -> None:
    same_as_single(single, tmp_path, ALL[name], trainer__accumulate=2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hsdp-2x2", "tp-2", "dp_pp-2x2"])
def test_bf16_and_independent_reading(tmp_path: Path, name: str) -> None:
    parallel = ALL[name]
    options = {"trainer__precision": "bf16", "data__dispatch": "independent", "trainer__clip_norm": None}
    assert run(tmp_path, world_of(parallel), parallel=parallel, **BASE | options) == [0] * world_of(parallel)
    losses = [step[0] for step in steps(tmp_path).values()]
    assert losses[-1] < losses[0] < 6


class SameBits(Callback):
    """The first backward after the start gives the gradients of the second, bit for bit; all ranks find one norm."""

    def on_start(self, trainer: TrainerView) -> None:
        part, _ = trainer.coordinator.topology.index(dist.get_rank(), trainer.strategy.data_axes)
        random = torch.Generator().manual_seed(part)
        inputs, targets = torch.randint(256, (2, 8, 16), generator=random)
        found = []
        for _ in range(2):
            trainer.strategy.step(trainer.model, [(inputs, targets)], trainer.loss)
            norms: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(norms, trainer.strategy.grad_norm(trainer.model).item())
            assert len(set(norms)) == 1, norms
            gradients = [p.grad for p in trainer.model.parameters() if p.grad is not None]
            found.append([getattr(grad, "_local_tensor", grad).clone() for grad in gradients])
            trainer.model.zero_grad(set_to_none=True)
        assert len(found[0]) > 5 and all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    "parallel",
    [
        pytest.param(topology(DDP, dp=4), id="ddp"),
        pytest.param(topology(FSDP, dp=4, fsdp=2), id="hsdp"),
        pytest.param(topology(TP, dp=4, tp=2), id="dp_tp"),
        pytest.param(topology(PP, within(DDP), dp=4, pp=2), id="dp_pp"),
    ],
)
def test_sums_have_one_order_from_the_first_step_on(tmp_path: Path, parallel: dict[str, Any]) -> None:
    """Four data-parallel ranks, because the sum of two numbers does not depend on their order."""
    options = BASE | {
        "trainer__max_steps": 1,
        "data__eval": None,
        "callbacks": {"same": {"_target_": "test_strategy.SameBits"}},
    }
    assert run(tmp_path, world_of(parallel), parallel=parallel, **options) == [0] * world_of(parallel)


class EqualAlongTp(Callback):
    """What tp does not split is equal on its ranks."""

    def on_end(self, trainer: TrainerView) -> None:
        plain = {n: p.detach() for n, p in trainer.model.named_parameters() if not isinstance(p, DTensor)}
        assert len(plain) == 21
        for name, value in plain.items():
            values = [torch.empty_like(value) for _ in range(2)]
            dist.all_gather(values, value)
            assert torch.equal(*values), name


def test_dropout_draws_the_same_along_tp(tmp_path: Path) -> None:
    callbacks = {"equal": {"_target_": "test_strategy.EqualAlongTp"}}
    options: dict[str, Any] = BASE | {"model": BASE["model"] | {"dropout": 0.3}, "callbacks": callbacks}
    assert run(tmp_path, 2, parallel=QUICK["tp-2"], **options) == [0, 0]
