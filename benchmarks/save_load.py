"""Saving and loading compared with other libraries, in one run, as ratios.

    python benchmarks/save_load.py [--mb 540] [--ranks 1 2] [--rounds 5]

The state is that of a GPT in training: fp32 weights and AdamW's two moments, equal on all ranks. The contenders
alternate within every round, and medians are compared. Every save is durable: data and folders are flushed, by this
script if a library does not flush them itself. The figures of dcp_runner include what the others do not do: comparing
the holders, digests of every byte, agreement of all ranks, and the check on loading. The limits of the machine (a plain
buffered write and flush, a plain read of the same bytes by one process) are measured in the same rounds.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp

from dcp_runner import CheckpointCoordinator, StateComponent, Topology

CACHES = Path("/proc/sys/vm/drop_caches")


class Holder:
    """A state as a component."""

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        self.state = state

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, tensor in state_dict.items():
            self.state[name].copy_(tensor)


def make_state(megabytes: int) -> dict[str, torch.Tensor]:
    """Weights and two moments of a GPT of width 512, in fp32, with about this size in total."""
    torch.manual_seed(0)
    state: dict[str, torch.Tensor] = {}
    layer = 0
    while sum(tensor.nbytes for tensor in state.values()) < megabytes * 1e6:
        for kind in ("weight", "exp_avg", "exp_avg_sq"):
            for name, shape in {"qkv": (1536, 512), "out": (512, 512), "up": (2048, 512), "down": (512, 2048)}.items():
                state[f"{layer}.{name}.{kind}"] = torch.randn(shape)
            state[f"{layer}.norm.{kind}"] = torch.randn(512)
        layer += 1
    return state


def flush(folder: Path) -> None:
    """Flush every file in a folder, and the folder itself."""
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


Action = Callable[[Path], None]


def contenders(state: dict[str, torch.Tensor], rank: int, world: int) -> dict[str, tuple[Action, Action]]:
    """Name -> (save durably, load) for this rank."""

    def on_first(action: Action) -> Action:
        return lambda folder: action(folder) if rank == 0 else None

    def write_plain(folder: Path) -> None:
        with (folder / "plain").open("wb") as file:
            for tensor in state.values():
                file.write(memoryview(tensor.view(-1).view(torch.uint8).numpy().data))
        flush(folder)

    def read_plain(folder: Path) -> None:
        with (folder / "plain").open("rb") as file:
            for tensor in state.values():
                file.readinto(memoryview(tensor.view(-1).view(torch.uint8).numpy().data))  # type: ignore[attr-defined]

    def save_torch(folder: Path) -> None:
        torch.save(state, folder / "state.pt")
        flush(folder)

    def load_torch(folder: Path) -> None:
        Holder(state).load_state_dict(torch.load(folder / "state.pt", weights_only=True))

    def save_safetensors(folder: Path) -> None:
        safetensors.torch.save_file(state, folder / "state.safetensors")
        flush(folder)

    def load_safetensors(folder: Path) -> None:
        Holder(state).load_state_dict(safetensors.torch.load_file(folder / "state.safetensors"))

    def save_dcp(folder: Path) -> None:
        writer = dcp.FileSystemWriter(folder, thread_count=2 if world == 1 else 1)
        dcp.save({"state": state}, storage_writer=writer, no_dist=world == 1)
        if rank == 0:
            flush(folder)

    def load_dcp(folder: Path) -> None:
        dcp.load({"state": state}, checkpoint_id=folder, no_dist=world == 1)

    def coordinator(folder: Path, validation: str, check: str) -> CheckpointCoordinator:
        component = StateComponent("state", Holder(state))
        return CheckpointCoordinator([component], Topology(world), folder, validation=validation, check=check)

    return {
        "plain bytes": (on_first(write_plain), on_first(read_plain)),
        "torch.save": (on_first(save_torch), load_torch),
        "safetensors": (on_first(save_safetensors), load_safetensors),
        "torch.distributed.checkpoint": (save_dcp, load_dcp),
        "dcp_runner, validation=none": (
            lambda folder: coordinator(folder, "none", "all").save(1) and None,
            lambda folder: coordinator(folder, "none", "read").load(1) and None,
        ),
        "dcp_runner": (
            lambda folder: coordinator(folder, "tensor", "all").save(1) and None,
            lambda folder: coordinator(folder, "tensor", "all").load(1) and None,
        ),
    }


def measure(rank: int, world: int, port: int, root: Path, megabytes: int, rounds: int, results: Any) -> None:
    """One rank of the benchmark. Rank 0 puts into `results` the state's size, and by name of the contender a list of
    (seconds to save, to load cold, to load warm).
    """
    torch.set_num_threads(1)
    if world > 1:
        store = dist.TCPStore("127.0.0.1", port, is_master=False)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    state = make_state(megabytes)
    times: dict[str, list[tuple[float, float, float]]] = {}

    def timed(action: Action, folder: Path) -> float:
        if world > 1:
            dist.barrier()
        start = time.perf_counter()
        action(folder)
        if world > 1:
            dist.barrier()
        return time.perf_counter() - start

    for number in range(rounds + 1):
        for name, (save, load) in contenders(state, rank, world).items():
            folder = root / f"{number}-{name.replace(' ', '-')}"
            if rank == 0:
                folder.mkdir()
            saved = timed(save, folder)
            if rank == 0 and CACHES.exists():
                os.sync()
                CACHES.write_text("3")
            cold, warm = timed(load, folder), timed(load, folder)
            if number:  # the first round warms up
                times.setdefault(name, []).append((saved, cold, warm))
            if rank == 0:
                shutil.rmtree(folder)
    if rank == 0:
        results.put((sum(tensor.nbytes for tensor in state.values()), times))
    if world > 1:
        dist.destroy_process_group()


def table(size: int, world: int, times: dict[str, list[tuple[float, float, float]]]) -> str:
    """A Markdown table: seconds (median), and the ratio to torch.distributed.checkpoint and to the plain bytes."""
    medians = {name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in times.items()}
    peer, limit = medians["torch.distributed.checkpoint"], medians["plain bytes"]
    lines = [
        f"{size / 1e9:.2f} GB of replicated state, {world} rank(s)",
        "",
        "| contender | save s | / DCP | / plain | load cold s | / DCP | / plain | load warm s | / DCP | / plain |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, values in medians.items():
        cells = [f"{v:.2f} | {v / p:.2f} | {v / q:.2f}" for v, p, q in zip(values, peer, limit, strict=True)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=int, default=540, help="size of the state in MB")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print(f"{date.today()}, torch {torch.__version__}, {os.cpu_count()} cores, medians of {arguments.rounds}\n")
    for world in arguments.ranks:
        context = multiprocessing.get_context("spawn")
        results = context.Queue()
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        with tempfile.TemporaryDirectory(prefix="benchmark-", dir=".") as root:
            common = (store.port, Path(root), arguments.mb, arguments.rounds, results)
            ranks = [context.Process(target=measure, args=(rank, world, *common)) for rank in range(world)]
            for process in ranks:
                process.start()
            size, times = results.get(timeout=1800)
            for process in ranks:
                process.join()
        print(table(size, world, times) + "\n", flush=True)


if __name__ == "__main__":
    main()
