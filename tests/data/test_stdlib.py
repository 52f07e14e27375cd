"""The standard library as text."""

from __future__ import annotations

import pytest
import torch

from dcp_runner.data.stdlib import StdlibBytes


@pytest.fixture(scope="module")
def text() -> StdlibBytes:
    return StdlibBytes("eval", context=64)


def test_targets_are_the_inputs_one_byte_ahead(text: StdlibBytes) -> None:
    inputs, targets = text[5]
    assert inputs.dtype == targets.dtype == torch.int64
    assert inputs.shape == targets.shape == (64,)
    assert torch.equal(inputs[1:], targets[:-1])
    assert targets[-1] == text[6][0][0], "windows stand side by side"


def test_the_last_window_is_whole_and_the_one_beyond_is_refused(text: StdlibBytes) -> None:
    assert text[len(text) - 1][1].shape == (64,)
    with pytest.raises(IndexError):
        text[len(text)]


def test_it_is_python_source_with_the_files_kept_apart(text: StdlibBytes) -> None:
    content = bytes(torch.cat([text[i][0] for i in range(len(text))]).tolist())
    assert content.count(b"def ") > 1000
    assert 20 < content.count(b"\0") < 200, "about a tenth of six hundred files"


def test_no_file_is_in_both_splits() -> None:
    train, evaluation = StdlibBytes("train", 64), StdlibBytes("eval", 64)
    none, all_of_it = StdlibBytes("train", 64, eval_percent=0), StdlibBytes("eval", 64, eval_percent=100)
    assert len(none) == len(all_of_it)
    assert len(none) - 2 <= len(train) + len(evaluation) <= len(none)
    assert 0.03 < len(evaluation) / len(none) < 0.25


def test_the_limit_cuts_the_text_without_moving_it() -> None:
    whole, cut = StdlibBytes("train", 64), StdlibBytes("train", 64, limit_mb=0.1)
    assert len(cut) == (100_000 - 1) // 64
    assert torch.equal(cut[7][0], whole[7][0])


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="split must be train or eval, found test"):
        StdlibBytes("test", 64)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="longer than context=64 bytes, found 10"):
        StdlibBytes("train", 64, limit_mb=1e-5)
