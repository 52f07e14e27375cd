"""What may happen to the folder of a run while it trains: callbacks for the tests."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch.distributed as dist

from dcp_runner.train.callbacks import Callback, TrainerView


class Happens(Callback):
    """After a step, on one rank, something happens to the run folder `<disk>/run`."""

    def __init__(self, what: str, step: int, disk: str) -> None:
        self.what, self.step, self.disk = what, step, Path(disk)

    def on_step(self, trainer: TrainerView, metrics: Mapping[str, float]) -> None:
        rank = dist.get_rank() if dist.is_initialized() else 0
        if trainer.progress.step == self.step and rank == 0:
            getattr(self, self.what)()

    def fill(self) -> None:
        with suppress(OSError), (self.disk / "ballast").open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)

    def move(self) -> None:
        (self.disk / "run").rename(self.disk / "moved")

    def remove(self) -> None:
        shutil.rmtree(self.disk / "run")

    def protect(self) -> None:
        """As a file system that the kernel has made read-only after an error."""
        subprocess.run(["mount", "-o", "bind", str(self.disk), str(self.disk)], check=True)
        subprocess.run(["mount", "-o", "remount,ro,bind", str(self.disk)], check=True)


class Card(Callback):
    """Keeps a config.json beside the weights, before the commit or, as it should not, after it."""

    def __init__(self, when: str) -> None:
        self.when = when

    def add_files(self, trainer: TrainerView, folder: Path) -> None:
        if self.when == "before":
            (folder / "config.json").write_text("{}")
        if self.when == "fails":
            raise KeyError("no such model")

    def on_save(self, trainer: TrainerView, path: Path) -> None:
        if self.when == "after" and not (dist.is_initialized() and dist.get_rank()):
            (path / "config.json").write_text("{}")
