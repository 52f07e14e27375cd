"""Checks and plans with real objects are made in a process of their own: it answers, or its end is told, and nothing of
it stays in this process.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from commands import FORK, TIMEOUT_S, alive, gone
from hydra import compose, initialize_config_module
from omegaconf import DictConfig

from dcp_runner.common.errors import ConfigError
from dcp_runner.launch.preflight import child_process as module
from dcp_runner.launch.preflight.checks import check
from dcp_runner.launch.preflight.child_process import in_child_process
from dcp_runner.launch.preflight.resolve import resolve_config
from dcp_runner.launch.preflight.trial_build import show_plan
from dcp_runner.models.gpt import GPT


def test_the_answer_comes_and_what_was_printed_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    def work() -> dict[str, int]:
        print("printed")
        print("warned", file=sys.stderr)
        return {"process": os.getpid()}

    assert in_child_process("it", work)["process"] != os.getpid()
    shown = capfd.readouterr()
    assert (shown.out, shown.err) == ("printed\n", "warned\n")
    assert multiprocessing.active_children() == []


def raises() -> None:
    raise KeyError("what is wrong")


ENDS: dict[str, tuple[Callable[[], object], str]] = {
    "exception": (raises, "ended with exit code 1; what it printed stands above"),
    "exit": (lambda: sys.exit(3), "ended with exit code 3"),
    "exit that claims success": (lambda: os._exit(0), "ended with exit code 0"),
    "death": (lambda: os.kill(os.getpid(), signal.SIGKILL), "was killed by SIGKILL"),
    "what cannot be sent": (lambda: lambda: None, "ended with exit code 1"),
    "no end": (lambda: time.sleep(TIMEOUT_S), "no result within 0.5 s"),
}


@pytest.mark.parametrize("how", ENDS)
def test_an_end_without_an_answer_is_told(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LIMIT_S", 0.5 if how == "no end" else TIMEOUT_S)
    work, told = ENDS[how]
    with pytest.raises(ConfigError, match="it: ") as caught:
        in_child_process("it", work)
    assert told in str(caught.value)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_it_ends_with_whoever_waits_for_it(number: int, tmp_path: Path) -> None:
    file = tmp_path / "pid"

    def work() -> None:
        (tmp_path / "writing").write_text(str(os.getpid()))
        (tmp_path / "writing").rename(file)
        time.sleep(TIMEOUT_S)

    def wait() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.dup2(os.open(tmp_path / "err", os.O_CREAT | os.O_WRONLY), 2)
        try:
            in_child_process("it", work)
        except KeyboardInterrupt:
            os._exit(7)

    waiting = FORK.Process(target=wait)
    waiting.start()
    deadline = time.monotonic() + TIMEOUT_S
    while not file.exists():
        assert time.monotonic() < deadline and alive(waiting.pid or 0)
    os.kill(waiting.pid or 0, number)
    waiting.join(TIMEOUT_S)
    assert waiting.exitcode == (7 if number == signal.SIGINT else -number)
    assert gone([int(file.read_text())])
    assert (tmp_path / "err").read_text() == ""


def composed(*overrides: str) -> DictConfig:
    with initialize_config_module("dcp_runner.conf", version_base="1.3"):
        return compose("config", ["name=run", "model=gpt_tiny", *overrides])


class Leaves(GPT):
    """A model whose building changes its process."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        with Path(os.environ["TEST_MARK"]).open("a") as file:
            file.write(f"{os.getpid()}\n")
        os.environ["LEFT_BY_A_MODEL"] = "1"
        torch.set_default_dtype(torch.float64)


def state() -> list[object]:
    torch_state = torch.get_rng_state().tolist()
    generators = [random.getstate(), np.random.get_state()[1].tolist(), torch_state]  # type: ignore[index]
    defaults = [torch.get_default_dtype(), torch.get_default_device(), os.environ.get("LEFT_BY_A_MODEL")]
    return [*generators, *defaults, dist.is_initialized(), torch.cuda.is_initialized(), torch.get_num_threads()]


@pytest.mark.parametrize(
    "overrides",
    [
        ["parallel=fsdp", "sharing.rng=per_rank"],
        *(
            pytest.param([text], marks=pytest.mark.slow)
            for text in ("parallel=pipeline", "parallel=tp", "sharing.model=global")
        ),
    ],
)
def test_checks_and_plans_build_nothing_here(
    overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    monkeypatch.setenv("TEST_MARK", f"{tmp_path}/mark")
    cfg = composed("model._target_=test_aside.Leaves", *overrides)
    before = state()
    assert check(cfg) == []
    assert "optimizer" in show_plan(resolve_config(cfg, None))
    assert state() == before
    builders = {int(line) for line in (tmp_path / "mark").read_text().split()}
    assert builders and os.getpid() not in builders


class Ends(torch.nn.Module):
    """A model whose building ends the process, as a crash in a library does."""

    def __init__(self, **options: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_model_that_ends_the_process_is_a_problem_of_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    model = "model._target_=test_aside.Ends"
    assert check(composed(model, "data.batch_size=7", "parallel=tp", "trainer.accumulate=2")) == [
        "data.batch_size=7: it is the global one, and must divide by dp 1 x fsdp 1 x accumulate 2 = 2; try 6 or 8",
        "building model, optimizer and plan without data: the process that tries it was killed by SIGKILL",
    ]
    (told,) = check(composed(model, "sharing.model=global"))
    assert told == "building model, optimizer and plan without data: the process that tries it was killed by SIGKILL"
