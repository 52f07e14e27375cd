"""The layout of a parameter's state is recorded only where it does not follow from the parameter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from fake_ranks import rank_of_mesh

from dcp_runner.checkpoint.state.optim.placement import layout_problems, record_layout, restore_layout


@pytest.fixture(scope="module")
def param() -> Iterator[Any]:
    """A DTensor of 4 x 6, sharded over fsdp=2 in dimension 0."""
    with rank_of_mesh(0, (2,), ("fsdp",)) as mesh:
        from torch.distributed.tensor import DTensor, Shard

        yield DTensor.from_local(torch.zeros(2, 6), mesh, [Shard(0)], run_check=False)


PLAIN = torch.zeros(4, 6)
CHANNELS_LAST = torch.arange(24.0).reshape(1, 2, 3, 4).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        (3, []),
        (torch.tensor(3.0), []),
        (torch.ones(4, 6), []),
        ([torch.ones(2), torch.ones(4, 6)], []),
        (torch.ones(6, 4).t(), ["strides=1,4"]),
        ([1, CHANNELS_LAST], ["", "strides=24,1,8,2"]),
    ],
)
def test_plain_state_needs_a_text_only_if_it_is_not_row_major(value: Any, texts: list[str]) -> None:
    assert record_layout(value, PLAIN) == texts


def test_strides_come_back() -> None:
    saved = [1, CHANNELS_LAST.contiguous()]
    number, tensor = restore_layout(saved, PLAIN, record_layout([1, CHANNELS_LAST], PLAIN), to_device=True)
    assert number == 1 and tensor.stride() == CHANNELS_LAST.stride() and torch.equal(tensor, CHANNELS_LAST)


def test_state_of_a_dtensor_parameter(param: Any) -> None:
    from torch.distributed.tensor import DTensor, Replicate, Shard

    def on_mesh(local: torch.Tensor, placement: Any) -> Any:
        return DTensor.from_local(local, param.device_mesh, [placement], run_check=False)

    assert record_layout(on_mesh(torch.ones(2, 6), Shard(0)), param) == []
    assert record_layout(torch.tensor(1.0), param) == [], "a scalar is the same on every rank"
    assert record_layout(on_mesh(torch.ones(6), Replicate()), param) == ["fsdp=2:-"]
    assert record_layout([on_mesh(torch.ones(2, 6), Shard(0))], param) == ["fsdp=2:0"]
    assert record_layout(torch.ones(6), param) == ["whole"]
    assert restore_layout(torch.ones(6), param, ["whole"], True).shape == (6,)
    assert restore_layout(torch.ones(6), param, ["fsdp=2:-"], True).placements == (Replicate(),)
    assert restore_layout(torch.ones(4), param, ["fsdp=4:0"], True).placements == (Shard(0),)


def test_what_could_not_be_restored_is_an_error(param: Any) -> None:
    with pytest.raises(ValueError, match="a plain tensor, but the parameter of the same shape is a DTensor"):
        record_layout(torch.ones(4, 6), param)
    with pytest.raises(ValueError, match="a DTensor, but the parameter is a plain tensor"):
        record_layout(param, PLAIN)
    assert layout_problems(torch.empty(5, device="meta"), param, ["fsdp=4:0"]) == [
        "its shape (5,) does not show which dimensions of (4, 6) it has"
    ]
    assert layout_problems([torch.ones(6), 1], param, ["whole", ""]) == []
