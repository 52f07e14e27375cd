"""Real training runs for the tests: forked ranks, gloo, the store outside of them, the project's own entry."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from datetime import timedelta
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # what DistributedDataParallel imports; once here, not in every fork
import torch.distributed as dist

from dcp_runner.common.run_context import RunContext
from dcp_runner.common.signals import StopFlag
from dcp_runner.config.convert import config_hash, from_plain, to_plain
from dcp_runner.config.schema import RunConfig
from dcp_runner.run.train import train
from dcp_runner.train.callbacks import Callback, TrainerView

FORK = multiprocessing.get_context("fork")

TINY: dict[str, Any] = {
    "model": {
        "_target_": "dcp_runner.models.gpt.GPT",
        "vocab_size": 32,
        "context": 8,
        "layers": 2,
        "heads": 2,
        "width": 16,
        "dropout": 0.1,
    },
    "loss": {"_target_": "dcp_runner.models.loss.next_token"},
    "optim": {"_target_": "torch.optim.AdamW", "lr": 0.01, "betas": [0.9, 0.95], "weight_decay": 0.1},
    "data.train": {"_target_": "dcp_runner.data.synthetic.RandomTokens", "length": 24, "context": 8, "vocab": 32},
    "data.eval": {
        "_target_": "dcp_runner.data.synthetic.RandomTokens",
        "length": 10,
        "context": 8,
        "vocab": 32,
        "seed": 1,
    },
    "data.batch_size": 8,
    "schedule.warmup_steps": 2,
    "trainer.max_steps": 8,
    "trainer.eval_every": 2,
    "trainer.device": "cpu",
    "checkpoint.every_steps": 4,
    "checkpoint.timeout_s": 30.0,
    "logger.progress": False,
}


def config(**overrides: Any) -> RunConfig:
    """The tiny run with overrides by dotted key (`__` for a dot)."""
    plain: dict[str, Any] = to_plain(RunConfig(name="test"))
    for key, value in (TINY | {key.replace("__", "."): value for key, value in overrides.items()}).items():
        *path, last = key.split(".")
        node = plain
        for step in path:
            node = node[step]
        node[last] = value
    return from_plain(plain)


def run(
    folder: Path,
    world: int,
    *,
    parallel: Mapping[str, Any] | None = None,
    timeout_s: float = 90.0,
    context: Mapping[str, Any] | None = None,
    **overrides: Any,
) -> list[int]:
    """Start the run once more in its folder; exit codes by rank (0: finished; 128 + n: stopped by a signal; -n: killed by it).

    `parallel` are keys of the `parallel` node; without it several ranks are data-parallel. `context` are fields of the
    RunContext.
    """
    if parallel is None and world > 1:
        parallel = {"strategy": "dcp_runner.train.parallel.ddp.DataParallel", "dp": world}
    made = config(**overrides, **{f"parallel__{key}": value for key, value in (parallel or {}).items()})
    return run_config(made, folder, world, timeout_s, context)


def run_config(
    made: RunConfig, folder: Path, world: int, timeout_s: float = 90.0, context: Mapping[str, Any] | None = None
) -> list[int]:
    """The same of a whole configuration."""
    return run_configs({folder: made}, world, timeout_s, context)


def run_configs(
    runs: Mapping[Path, RunConfig], world: int, timeout_s: float = 90.0, context: Mapping[str, Any] | None = None
) -> list[int]:
    """Several runs, each in its folder, one after the other on the same ranks; the first that fails is the last."""
    attempts = {folder: len(list((folder / "attempts").glob("*"))) + 1 for folder in runs}
    for folder, attempt in attempts.items():
        (folder / "attempts" / str(attempt)).mkdir(parents=True)
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    started = FORK.Barrier(world)  # see dcp_runner.launch.local: no fork while the store's thread looks up a client
    common = (runs, attempts, world, store.port, started, context or {})
    ranks = [FORK.Process(target=_rank, args=(rank, *common)) for rank in range(world)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(timeout_s)
    stuck = [process for process in ranks if process.exitcode is None]
    for process in stuck:
        process.kill()
        process.join()
    assert not stuck, f"{len(stuck)} ranks did not end within {timeout_s} s"
    return [process.exitcode or 0 for process in ranks]


def _rank(
    rank: int,
    runs: Mapping[Path, RunConfig],
    attempts: Mapping[Path, int],
    world: int,
    port: int,
    started: Barrier,
    more: Mapping[str, Any],
) -> None:
    started.wait(60)
    if world > 1:
        store = dist.TCPStore("127.0.0.1", port, is_master=False)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=20))
    stop = StopFlag(own_session=True).install()
    code = 1
    try:
        for folder, made in runs.items():
            plain, digest = to_plain(made), config_hash(made)
            train(made, RunContext(folder, attempts[folder], rank, world, rank, world, digest, plain, stop, **more))
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    except Exception:
        traceback.print_exc()  # pytest shows what the forked ranks wrote
    finally:
        sys.stderr.flush()
        os._exit(code)


def steps(folder: Path) -> dict[int, tuple[float, ...]]:
    """Step -> (loss, grad_norm, lr), exact, as the last attempt that made the step wrote them."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: (line["loss"], line["grad_norm"], line["lr"]) for line in lines if "grad_norm" in line}


def evaluations(folder: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["eval_loss"] for line in lines if "eval_loss" in line}


def contents(checkpoint: Path) -> dict[str, bytes]:
    """Every file of a checkpoint but its manifest: weights, optimizer, generators, data position, byte for byte."""
    files = (path for path in checkpoint.rglob("*") if path.is_file() and path.name != "checkpoint_manifest.json")
    return {path.relative_to(checkpoint).as_posix(): path.read_bytes() for path in files}


class Normed(torch.nn.Module):
    """A model with BatchNorm, whose statistics differ between ranks after a step."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(32, 16)
        self.norm = torch.nn.BatchNorm1d(16)
        self.head = torch.nn.Linear(16, 32)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.embed(tokens).transpose(1, 2)).transpose(1, 2))


class KillAt(Callback):
    """Sends a signal to some ranks, from inside, after a step; in the first start only."""

    def __init__(self, step: int, ranks: list[int], mark: str, signum: int = signal.SIGKILL) -> None:
        self.step, self.ranks, self.mark, self.signum = step, ranks, Path(mark), signum

    def on_step(self, trainer: TrainerView, metrics: Mapping[str, float]) -> None:
        rank = dist.get_rank() if dist.is_initialized() else 0
        if trainer.progress.step == self.step and rank in self.ranks and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), self.signum)


torch.set_num_threads(1)
