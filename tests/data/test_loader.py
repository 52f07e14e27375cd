"""What a scheduler sends to all processes of a job does not end the loader's workers: the rank decides."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from dcp_runner.data.loader import Reader
from dcp_runner.data.order import Order

SENT = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGTERM)


class Pids:
    """A data set whose items tell which process has read them."""

    def __len__(self) -> int:
        return 1000

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.tensor(os.getpid()), torch.tensor(index)


@pytest.fixture
def reader() -> Iterator[Reader]:
    made = Reader(Pids(), Order(1000, 0, shuffle=False), step=4, size=4, numbers=range(1), workers=1)
    yield made
    made.close()


def worker_of(reader: Reader, step: int) -> int:
    ((pids, _),) = reader.read(step * 4)
    assert int(pids[0]) != os.getpid()
    return int(pids[0])


def send(number: int, pid: int) -> None:
    """From a process that is neither the worker's rank nor the worker, as a scheduler's. Returns when the worker has
    taken it, because a second signal of the same number is lost while the first is pending.
    """
    subprocess.run(["kill", f"-{number}", str(pid)], check=True)
    status = Path(f"/proc/{pid}/status")
    while int(status.read_text().split("ShdPnd:")[1].split()[0], 16) >> (number - 1) & 1:
        os.sched_yield()


def test_it_goes_on_reading(reader: Reader) -> None:
    worker = worker_of(reader, 0)
    for number in (*SENT, *SENT):
        send(number, worker)
    assert [worker_of(reader, step) for step in range(1, 50)] == [worker] * 49


def test_its_rank_ends_it(reader: Reader) -> None:
    worker = worker_of(reader, 0)
    send(signal.SIGTERM, worker)
    (process,) = [child for child in multiprocessing.active_children() if child.pid == worker]
    process.terminate()
    process.join(60)
    assert process.exitcode == 0
