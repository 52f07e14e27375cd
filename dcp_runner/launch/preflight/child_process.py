"""Work with real objects in a process of its own, which has ended before any rank is started: models, meshes and
process groups leave caches, seeds and defaults behind, and ranks that are forked later would inherit them.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TypeVar

from dcp_runner.common.errors import ConfigError

T = TypeVar("T")
LIMIT_S = 1800.0
"""An answer later than this is not waited for."""
_FORK = multiprocessing.get_context("fork")


def in_child_process(what: str, work: Callable[[], T]) -> T:
    """What `work` returns, plain data. What it prints is shown, and the traceback of an exception.

    It is forked, so modules that this process has imported need not be imported again.

    Raises:
        ConfigError: it returned nothing, because it raised, died or did not end; the text begins with `what`.
    """
    receiver, sender = _FORK.Pipe(duplex=False)
    child = _FORK.Process(target=_answer, args=(sender, os.getpid(), work))
    child.start()
    sender.close()
    try:
        if not receiver.poll(LIMIT_S):
            raise ConfigError(f"{what}: no result within {LIMIT_S:g} s")
        answer: T = receiver.recv()
        return answer
    except EOFError as end:
        child.join()
        raise ConfigError(f"{what}: {_end(child.exitcode or 0)}") from end
    finally:
        child.kill()
        child.join()
        receiver.close()


def _answer(sender: Connection, parent: int, work: Callable[[], object]) -> None:
    """The process of its own."""
    die_with_parent(parent)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a terminal's Ctrl-C is answered by the parent
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)  # the threads of a pool that the parent has used are not here
    answer = work()
    sys.stdout.flush()
    sys.stderr.flush()
    sender.send(answer)


def _end(code: int) -> str:
    if code >= 0:
        return f"the child process exited with {code}; its output is above"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return f"the child process was killed by {name}"


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, however that happens."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
