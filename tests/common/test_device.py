"""CUDA is used where it is asked for, or where every rank of the node has a GPU."""

from __future__ import annotations

import pytest
import torch

from dcp_runner.common.device import Device, device_of, uses_cuda


@pytest.mark.parametrize(
    ("device", "gpus", "expected"),
    [
        (Device.cpu, 8, False),
        (Device.auto, 0, False),
        (Device.auto, 3, False),
        (Device.auto, 4, True),
        (Device.auto, 8, True),
        (Device.cuda, 0, True),
    ],
)
def test_four_ranks_on_a_node(device: Device, gpus: int, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    current: list[int] = []
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    assert uses_cuda(device, 4) is expected
    assert device_of(device, 2, 4) == (torch.device("cuda", 2) if expected else torch.device("cpu"))
    assert current == [2] * expected
