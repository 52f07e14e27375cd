"""Digests depend on every byte, on dtype and shape, and not on the memory layout or on how a file is read."""

from __future__ import annotations

from io import BytesIO

import pytest
import torch

from dcp_runner.checkpoint.digest import BLOCK, digest_tensor, dtype_name, hash_bytes, hash_file, host_bytes

LAYOUTS = {
    "row-major": torch.arange(6.0).reshape(2, 3),
    "transposed": torch.arange(6.0).reshape(2, 3).t().contiguous().t(),
    "every second": torch.arange(6.0).repeat_interleave(2)[::2].reshape(2, 3),
    "unusual stride of a size of 1": torch.arange(6.0).as_strided((2, 1, 3), (3, 77, 1)).squeeze(1),
    "with a gradient": torch.arange(6.0).reshape(2, 3).requires_grad_(),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_same_values_have_the_same_digest_in_any_layout(name: str) -> None:
    assert digest_tensor(LAYOUTS[name]) == digest_tensor(LAYOUTS["row-major"])
    assert bytes(host_bytes(LAYOUTS[name])) == torch.arange(6.0).numpy().tobytes()


def test_dtype_and_shape_count() -> None:
    tensors = [torch.zeros(4), torch.zeros(2, 2), torch.zeros(4, dtype=torch.int32), torch.zeros(0), torch.zeros(0, 2)]
    assert len({digest_tensor(tensor).whole for tensor in tensors}) == len(tensors)
    assert [dtype_name(tensor) for tensor in tensors[1:3]] == ["float32", "int32"]


def test_one_byte_changes_one_block_and_the_whole() -> None:
    tensor = torch.zeros(2 * BLOCK + 1, dtype=torch.uint8)
    before = digest_tensor(tensor)
    tensor[BLOCK] = 1
    after = digest_tensor(tensor)
    assert [a == b for a, b in zip(before.blocks, after.blocks, strict=True)] == [True, False, True]
    assert before.whole != after.whole


def test_a_file_is_digested_from_where_it_stands() -> None:
    file = BytesIO(b"header" + bytes(BLOCK + 3))
    file.seek(6)
    assert hash_file(file) == hash_bytes(bytes(BLOCK + 3)) and len(hash_bytes(b"")) == 32


def test_a_single_element_may_have_any_stride() -> None:
    assert bytes(host_bytes(torch.ones(78).as_strided((1,), (77,)))) == torch.ones(1).numpy().tobytes()
