"""Any part of a tensor from any parts that were stored, with a bounded buffer; and the merging of skeletons."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dcp_runner.checkpoint import digest
from dcp_runner.checkpoint.digest import digest_tensor, hash_bytes
from dcp_runner.checkpoint.files import tensor_file
from dcp_runner.checkpoint.files.tensor_file import TensorFile, encode
from dcp_runner.checkpoint.loading import tensor_reader
from dcp_runner.checkpoint.loading.tensor_reader import TensorReader
from dcp_runner.checkpoint.state.box import Box


@contextmanager
def written(folder: Path, *parts: tuple[torch.Tensor, Box]) -> Iterator[list[TensorFile]]:
    """A file for each of these parts of a tensor `t`."""
    files = []
    for number, (tensor, box) in enumerate(parts):
        header, buffers = encode({"tree": {}}, {"t": tensor}, {"t": digest_tensor(tensor)}, {"t": box})
        path = folder / f"{number}.safetensors"
        path.write_bytes(header + b"".join(buffers))
        files.append(TensorFile(path, path.name, size=path.stat().st_size, digest=hash_bytes(header)))
    with ExitStack() as stack:
        yield [stack.enter_context(file) for file in files]


@st.composite
def cut(draw: st.DrawFn, shape: tuple[int, ...]) -> list[Box]:
    """Boxes that cover a tensor once: cut along one dimension, some of them empty."""
    dimension = draw(st.integers(0, len(shape) - 1))
    places = sorted(draw(st.lists(st.integers(0, shape[dimension]), max_size=4)))
    found = []
    for start, stop in zip([0, *places], [*places, shape[dimension]], strict=True):
        offsets = tuple(start if d == dimension else 0 for d in range(len(shape)))
        sizes = tuple(stop - start if d == dimension else n for d, n in enumerate(shape))
        found.append(Box(shape, offsets, sizes))
    return found


@st.composite
def cases(draw: st.DrawFn) -> tuple[tuple[int, ...], list[Box], list[Box]]:
    shape = tuple(draw(st.lists(st.integers(1, 9), min_size=1, max_size=4)))
    return shape, draw(cut(shape)), draw(cut(shape))


class Live:
    """Stands for a DTensor that holds a box."""

    def __init__(self, box: Box) -> None:
        self.box, self.shape = box, box.shape


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(
    case=cases(),
    bucket=st.integers(1, 200),
    block=st.integers(1, 60),
    dtype=st.sampled_from([torch.float32, torch.int16]),
)
def test_any_cut_is_read_from_any_other(case: Any, bucket: int, block: int, dtype: torch.dtype, tmp_path: Path) -> None:
    shape, saved, wanted = case
    whole = torch.arange(torch.Size(shape).numel()).reshape(shape).to(dtype)
    with pytest.MonkeyPatch.context() as patch:
        for module in (digest, tensor_file):
            patch.setattr(module, "BLOCK", block)
        patch.setattr(tensor_reader, "BUCKET", bucket)
        patch.setattr(tensor_reader, "is_sharded", lambda live: isinstance(live, Live))
        patch.setattr(tensor_reader, "local_part", lambda live: (None, live.box))
        patch.setattr(tensor_reader, "like", lambda local, live: local)
        parts = [(whole[box.inside(Box.whole(shape))].contiguous(), box) for box in saved]
        with written(tmp_path, *parts) as files:
            stored = TensorReader(files)
            for box in wanted:
                assert stored.problem("t", Live(box)) == ""
                read = stored.read("t", Live(box))
                assert read.dtype == dtype and torch.equal(read, whole[box.inside(Box.whole(shape))])
            assert torch.equal(stored.read("t", None), whole)


def test_a_part_that_is_nowhere_is_told(tmp_path: Path) -> None:
    half = Box((4, 2), (0, 0), (2, 2))
    with written(tmp_path, (torch.ones(2, 2), half)) as files:
        assert "not all of its parts" in TensorReader(files).problem("t", None)
        assert "in none of its files" in TensorReader(files).problem("u", None)


def test_one_part_twice_is_one_part_unless_it_differs(tmp_path: Path) -> None:
    whole = Box.whole((2,))
    for other, conflicts in ((torch.ones(2), []), (torch.zeros(2), ["t"])):
        with written(tmp_path, (torch.ones(2), whole), (other, whole)) as files:
            assert TensorReader(files).conflicts() == conflicts


def test_a_damaged_block_is_found_only_where_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (digest, tensor_file):
        monkeypatch.setattr(module, "BLOCK", 40)
    values = torch.arange(30, dtype=torch.float32)
    with written(tmp_path, (values, Box.whole((30,)))) as (whole,):
        path = tmp_path / whole.name
        header, data = path.read_bytes()[:-120], bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    with TensorFile(path, path.name, size=len(data), digest=hash_bytes(header)) as file:
        target = memoryview(bytearray(60))
        file.read("t", 10, target)
        assert target == values.numpy().tobytes()[10:70]
        for read in (lambda: file.read("t", 30, memoryview(bytearray(60))), file.check):
            with pytest.raises(ValueError, match="tensor 't', block 2"):
                read()
