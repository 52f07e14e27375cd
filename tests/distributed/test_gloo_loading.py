"""Ranks that see other files, files that are damaged, and what the ranks tell each other on the way."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from gloo_faults import LOAD, OPEN, SAVE, FaultyComm
from gloo_ranks import Ended, Rank, caught, run, visible
from gloo_states import MEGABYTE, Box, state_of

from dcp_runner.checkpoint.component import StateComponent
from dcp_runner.checkpoint.coordinator import CheckpointCoordinator
from dcp_runner.checkpoint.topology import Topology

LARGE = 2 * MEGABYTE


class Pieces:
    """A model that all share, and a thing that each rank has for itself and can do without."""

    def __init__(self, rank: Rank, folder: Path, size: int | None = None, **more: Any) -> None:
        self.model, self.own = Box(), Box()
        size = size or rank.size
        self.comm = rank.comm(str(more), size, kind=FaultyComm)
        components = [
            StateComponent("model", self.model),
            StateComponent("own", self.own, "per_rank", on_missing_copy="fresh"),
        ]
        self.coordinator = CheckpointCoordinator(components, Topology(size), folder, comm=self.comm, **more)

    def hold(self, rank: int, seed: int) -> None:
        self.model.state, self.own.state = state_of(seed, LARGE), state_of(10 + rank)

    def load(self, **more: Any) -> tuple[Ended, int]:
        ended = caught(lambda: [row.action for row in self.coordinator.load("latest", **more).rows])
        return ended, self.model.loads + self.own.loads + bool(self.own.fresh)


def save(rank: Rank, folder: Path) -> None:
    pieces = Pieces(rank, folder)
    pieces.hold(rank.number, 1)
    pieces.coordinator.save(1)


# -- ranks that see other files ----------------------------------------------------------------------------------------


def somebody_else(folder: Path) -> None:
    """Become a user who may not open the folder."""
    os.seteuid(65534)


def another_disk(folder: Path) -> None:
    """See an empty disk of this rank's own in place of the folder."""
    new_namespace, private = 0x20000, 0x40000 | 0x4000
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(new_namespace) or libc.mount(b"none", b"/", None, private, None):
        raise OSError(ctypes.get_errno(), "unshare")
    subprocess.run(["mount", "-t", "tmpfs", "none", str(folder)], check=True)


def blind(folder: Path, how: Callable[[Path], None], culprit: int) -> list[tuple[Ended, Ended, int]]:
    """A save and a load where one rank does not see the folder that the others see."""
    run(lambda rank: save(rank, folder), 3)
    folder.chmod(0o700)

    def body(rank: Rank) -> tuple[Ended, Ended, int]:
        pieces = Pieces(rank, folder)
        pieces.hold(rank.number, 2)
        if rank.number == culprit:
            how(folder)
        loaded, changes = pieces.load()
        return caught(lambda: pieces.coordinator.save(2)), loaded, changes

    return run(body, 3)


@pytest.mark.parametrize(
    ("how", "why", "kind"),
    [
        (somebody_else, "Permission denied", "FileAccessError"),
        (another_disk, "No such file or directory", "IntegrityError"),
    ],
)
def test_a_rank_that_does_not_see_the_folder_is_named(
    how: Callable[[Path], None], why: str, kind: str, tmp_path: Path
) -> None:
    told = blind(tmp_path / "run", how, 1)
    for saved, loaded, changes in told:
        assert (loaded.phase, loaded.types, loaded.culprits) == ("compare", {kind}, (1,))
        assert why in loaded.text and "rank 1 on" in loaded.text and "model-00001-of-00002.safetensors" in loaded.text
        assert changes == 0
        assert saved.phase == "storage" and saved.culprits == (1,), "before the work"
        assert why in saved.text or "is not the folder that rank 0 sees" in saved.text
    assert len({saved.text for saved, *_ in told}) == len({loaded.text for _, loaded, _ in told}) == 1
    assert visible(tmp_path / "run") == ["checkpoint-1", "latest"]


@pytest.mark.parametrize("how", [somebody_else, another_disk])
def test_if_it_is_the_first_rank_there_is_nothing_to_load(how: Callable[[Path], None], tmp_path: Path) -> None:
    for saved, loaded, changes in blind(tmp_path / "run", how, 0):
        assert loaded.phase == "find" and loaded.culprits == (0,) and changes == 0
        assert saved.error == "CheckpointError" and saved.culprits in ((0,), (1, 2))
    assert visible(tmp_path / "run") == ["checkpoint-1", "latest"]


# -- files that a save is given ----------------------------------------------------------------------------------------


def takes_a_name(name: str) -> Callable[[Path], None]:
    def add(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()

    return add


@pytest.mark.slow
def test_files_are_added_on_the_first_rank_and_take_no_name_of_any_rank(tmp_path: Path) -> None:
    names = ["own/rank-00001.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"]

    def body(rank: Rank) -> tuple[list[Ended], list[str]]:
        pieces = Pieces(rank, tmp_path)
        pieces.hold(rank.number, 1)
        ended = [
            caught(
                lambda name=name: pieces.coordinator.save(1, add_files=takes_a_name(name) if not rank.number else None)
            )
            for name in names
        ]
        asked: list[int] = []
        path = pieces.coordinator.save(1, add_files=lambda folder: (asked.append(1), takes_a_name("own/x")(folder)))
        return ended, [*pieces.coordinator.verify(path).files, *("asked" for _ in asked)]

    for number, (ended, listed) in enumerate(run(body, 2)):
        for name, one in zip(names, ended, strict=True):
            assert one.types == {"FileAccessError"} and f"{name}: cannot be written: another file" in one.text
        assert listed.count("own/x") == 1 and listed.count("asked") == (number == 0)
    assert visible(tmp_path) == ["checkpoint-1", "latest"]


# -- damaged files -----------------------------------------------------------------------------------------------------


def flip(path: Path, place: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def load_damaged(
    folder: Path, files: Sequence[str], saved: int, loaded: int, place: int = -1, **more: Any
) -> dict[str, list[tuple[Ended, int]]]:
    """Save on so many ranks, damage files, and load on so many ranks with each kind of check."""
    run(lambda rank: save(rank, folder), saved)
    for file in files:
        flip(folder / "checkpoint-1" / file, place)

    def body(rank: Rank) -> dict[str, tuple[Ended, int]]:
        return {check: Pieces(rank, folder, check=check).load(**more) for check in ("all", "read")}

    told = run(body, loaded)
    return {check: [one[check] for one in told] for check in ("all", "read")}


@pytest.mark.parametrize("place", [-1, 100], ids=["data", "header"])
def test_a_damaged_file_that_one_rank_reads_stops_all(place: int, tmp_path: Path) -> None:
    for told in load_damaged(tmp_path, ["own/rank-00001.safetensors"], 3, 3, place).values():
        (text,) = {ended.text for ended, _ in told}
        assert "own/rank-00001.safetensors" in text
        for ended, changes in told:
            assert (ended.types, ended.culprits, changes) == ({"IntegrityError"}, (1,), 0)


def test_a_damaged_file_that_nobody_reads_is_found_by_the_shared_check(tmp_path: Path) -> None:
    told = load_damaged(tmp_path, ["own/rank-00003.safetensors"], 4, 2)
    for ended, changes in told["all"]:
        assert (ended.phase, ended.types, len(ended.culprits), changes) == ("read", {"IntegrityError"}, 1, 0)
        assert "own/rank-00003.safetensors: tensor " in ended.text
    for ended, changes in told["read"]:
        assert (ended.value, changes) == (["loaded", "fresh"], 2)


@pytest.mark.parametrize("file", ["model-00002-of-00002.safetensors", "model.safetensors.index.json"])
def test_damage_in_a_component_that_is_left_out_is_found_by_the_shared_check(file: str, tmp_path: Path) -> None:
    told = load_damaged(tmp_path, [file], 2, 2, skip=["model"])
    for ended, changes in told["all"]:
        assert (ended.phase, ended.types, changes) == ("read", {"IntegrityError"}, 0)
        assert f"{file}: " in ended.text
    for ended, changes in told["read"]:
        assert (ended.value, changes) == (["unchanged (skipped)", "loaded"], 1)


def test_all_that_is_damaged_is_named_with_those_who_found_it(tmp_path: Path) -> None:
    files = [f"own/rank-{number:05d}.safetensors" for number in range(2, 6)]
    told = load_damaged(tmp_path, files, 6, 3, skip=["own"])
    (text,) = {ended.text for ended, _ in told["all"]}
    assert all(file in text for file in files)
    assert all(ended.culprits == (0, 1, 2) and changes == 0 for ended, changes in told["all"])


def test_verify_finds_it_too(tmp_path: Path) -> None:
    run(lambda rank: save(rank, tmp_path), 2)
    flip(tmp_path / "checkpoint-1" / "model-00001-of-00002.safetensors")

    def body(rank: Rank) -> Ended:
        return caught(lambda: Pieces(rank, tmp_path).coordinator.verify(tmp_path / "checkpoint-1"))

    for ended in run(body, 2):
        assert ended.types == {"IntegrityError"} and "model-00001-of-00002.safetensors" in ended.text


# -- what it costs -----------------------------------------------------------------------------------------------------


class Counting(FaultyComm):
    """Counts the operations of gloo too."""

    operations = 0

    def _gloo(self) -> Any:
        self.operations += 1
        return super()._gloo()


def test_a_save_and_a_load_make_as_many_exchanges_for_any_number_of_tensors(tmp_path: Path) -> None:
    def body(rank: Rank) -> Any:
        counts = {}
        for tensors in (3, 300):
            comm = rank.comm(f"count {tensors}", kind=Counting)
            boxes = [Box({f"t{n}": torch.full((5000,), n) for n in range(tensors)}) for _ in range(2)]
            components = [StateComponent("one", boxes[0]), StateComponent("two", boxes[1])]
            coordinator = CheckpointCoordinator(components, Topology(3), tmp_path / str(tensors), comm=comm)
            opened = comm.calls
            for step in (1, 2):
                comm.calls, comm.operations = [], 0
                coordinator.save(step)
                saved = comm.calls, comm.operations
            comm.calls, comm.operations = [], 0
            coordinator.load("latest")
            counts[tensors] = opened, saved, (comm.calls, comm.operations)
        return counts

    for counts in run(body, 3):
        assert counts[3] == counts[300]
        opened, (saved, sent), (loaded, received) = counts[3]
        assert [opened.count("open"), saved, loaded] == [len(OPEN), [p for p, _ in SAVE], [p for p, _ in LOAD]]
        assert (sent, received) == (8, 2)
