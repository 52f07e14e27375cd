"""Commands under test: the real program in a forked process, with an entry of the tests in place of training.

A fork has torch imported already, so that a whole command takes a second.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import runpy
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch._dynamo  # noqa: F401 (what the launcher imports; once here, not in every command)
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from dcp_runner import check, hydra_main, run_experiment
from dcp_runner.launch import local

FORK = multiprocessing.get_context("fork")
TIMEOUT_S = 60.0


def ours(entry: str) -> Callable[[], None]:
    """The program itself, with an entry of the tests."""

    @hydra_main(config_path="pkg://dcp_runner.conf", config_name="config", check=check)
    def main(cfg: DictConfig) -> None:
        cfg.seed = int(os.environ.get("TEST_SEED", cfg.seed))
        run_experiment(cfg, entry=f"entries:{entry}")

    return main


def composed(entry: str, *overrides: str) -> Callable[[], None]:
    """What follows on Hydra, with a configuration that this process has composed; the run folder is `outputs/run`."""
    cfg = _compose(overrides)
    return lambda: run_experiment(cfg, entry=f"entries:{entry}")


def script(path: Path) -> Callable[[], None]:
    """Somebody else's program."""

    def main() -> None:
        sys.path.insert(0, str(path.parent))
        runpy.run_path(str(path), run_name="__main__")

    return main


@cache
def _compose(overrides: tuple[str, ...]) -> DictConfig:
    with initialize_config_module("dcp_runner.conf", version_base="1.3"):
        return compose("config", ["name=run", *overrides])


@dataclass
class Command:
    """One command, started in a folder of its own."""

    folder: Path
    program: Callable[[], None]
    arguments: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    grace_s: float = local.GRACE_S
    tag: str = ""
    """Of its output files, where several commands share a folder."""
    process: BaseProcess | None = None

    def start(self) -> Command:
        self.process = FORK.Process(target=self._main)
        self.process.start()
        return self

    def wait(self) -> int:
        """Its exit code; the test fails if there is none in time."""
        assert self.process is not None
        self.process.join(TIMEOUT_S)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            raise AssertionError(f"no end within {TIMEOUT_S} s:\n{self.out}\n{self.err}")
        return self.process.exitcode

    def send(self, number: int) -> None:
        assert self.process is not None and self.process.pid
        os.kill(self.process.pid, number)

    @property
    def out(self) -> str:
        return (self.folder / f"stdout{self.tag}").read_text()

    @property
    def err(self) -> str:
        return (self.folder / f"stderr{self.tag}").read_text()

    def ranks(self, count: int) -> list[int]:
        """Process ids of the ranks, once all of them are at work."""
        deadline = time.monotonic() + TIMEOUT_S
        while len(found := sorted(self.folder.glob("outputs/run/ready-?"))) < count:
            assert time.monotonic() < deadline, f"the ranks did not start:\n{self.err}"
            time.sleep(0.01)
        return [int(path.read_text()) for path in found]

    def _main(self) -> None:
        os.chdir(self.folder)
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(name + self.tag, os.O_CREAT | os.O_WRONLY | os.O_APPEND), number)
        sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb", closefd=False), write_through=True)
        sys.stderr = io.TextIOWrapper(os.fdopen(2, "wb", closefd=False), write_through=True)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ.update(self.environment)
        local.GRACE_S = self.grace_s
        GlobalHydra.instance().clear()
        sys.argv = ["dcp_runner", *self.arguments]
        self.program()


def alive(pid: int) -> bool:
    """Whether a process still runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(pids: list[int]) -> bool:
    """Whether all processes end soon (the kernel ends them one after the other)."""
    deadline = time.monotonic() + 10
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not any(alive(pid) for pid in pids)
