"""A process that is to end with its parent does, however the parent ends."""

from __future__ import annotations

import os
import signal
import time
from multiprocessing.connection import Connection

import pytest
from commands import FORK, gone

from dcp_runner.launch.preflight.child_process import die_with_parent


def sleeps(parent: int, ready: Connection) -> None:
    die_with_parent(parent)
    ready.send(os.getpid())
    time.sleep(60)


def starts(ready: Connection) -> None:
    child = FORK.Process(target=sleeps, args=(os.getpid(), ready))
    child.start()
    child.join()


@pytest.mark.timeout(30)
def test_it_ends_with_a_parent_that_is_killed() -> None:
    here, there = FORK.Pipe()
    parent = FORK.Process(target=starts, args=(there,))
    parent.start()
    pid = here.recv()
    assert parent.pid is not None
    os.kill(parent.pid, signal.SIGKILL)
    parent.join()
    assert gone([pid])


@pytest.mark.timeout(30)
def test_it_ends_at_once_where_the_parent_is_gone_already() -> None:
    here, there = FORK.Pipe()
    child = FORK.Process(target=sleeps, args=(os.getpid() + 1, there))
    child.start()
    child.join(20)
    assert child.exitcode == 1 and not here.poll()
