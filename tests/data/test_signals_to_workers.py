"""What a scheduler sends to all processes of a job does not end the loader's workers: the rank decides."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from dcp_runner.data.order import Order
from dcp_runner.data.reading import Reader

SENT = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGTERM)


class Pids:
    """A data set whose items tell which process has read them."""

    def __len__(self) -> int:
        return 1000

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.tensor(os.getpid()), torch.tensor(index)


@pytest.fixture
def reader() -> Iterator[Reader]:
    made = Reader(Pids(), Order(1000, 0, shuffle=False), step=4, size=4, wanted=range(1), workers=1)
    yield made
    made.close()


def worker_of(reader: Reader, step: int) -> int:
    ((pids, _),) = reader.read(step * 4)
    assert int(pids[0]) != os.getpid()
    return int(pids[0])


def catches(pid: int, number: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    (mask,) = [line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")]
    return bool(int(mask, 16) >> number - 1 & 1)


def test_it_goes_on_reading(reader: Reader) -> None:
    worker = worker_of(reader, 0)
    for number in SENT:
        os.kill(worker, number)
    assert [worker_of(reader, step) for step in range(1, 50)] == [worker] * 49


def test_the_second_request_ends_it(reader: Reader) -> None:
    worker = worker_of(reader, 0)
    os.kill(worker, signal.SIGTERM)
    deadline = time.monotonic() + 60
    while catches(worker, signal.SIGTERM):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (process,) = [child for child in multiprocessing.active_children() if child.pid == worker]
    with suppress(RuntimeError):  # of torch, who watches its workers
        os.kill(worker, signal.SIGTERM)
        process.join(60)
    assert process.exitcode == -signal.SIGTERM
