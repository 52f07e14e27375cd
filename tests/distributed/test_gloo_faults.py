"""All ranks or none: whatever happens to one rank, the living ones raise the same error in time, and the last checkpoint stays whole."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from gloo_faults import LOAD, OPEN, REHEARSE, SAVE, FaultyComm, Point, effect
from gloo_ranks import DEAD, LOOPBACK, Body, Ended, Rank, Ranks, caught, run, visible
from gloo_states import MEGABYTE, Box, bits, state_of
from torch.distributed import TCPStore

from dcp_runner.checkpoint.component import StateComponent
from dcp_runner.checkpoint.coordinator import CheckpointCoordinator
from dcp_runner.checkpoint.files.storage import Storage
from dcp_runner.checkpoint.topology import Topology

TIMEOUT_S = 3.0
IN_TIME_S = TIMEOUT_S + 2.0 + 8.0
"""The time-out, what the store itself gets on top, and what a busy machine takes."""
WAVE = 12
"""Cases that wait out their time-outs together."""


@dataclass(frozen=True)
class Fault:
    """What happens, where, and to whom."""

    kind: str
    what: str
    point: Point
    rank: int
    size: int = 2
    when: str = "before"

    def __str__(self) -> str:
        return f"{self.kind}, {self.what} {self.point[0]} {self.point[1]} {self.when}, rank {self.rank} of {self.size}"

    @property
    def commits(self) -> bool:
        """Whether the rename happens all the same: in phase commit, unless it is rank 0 that does not come to it."""
        return self.point[0] == "commit" and (self.rank != 0 or self.when == "after")

    @property
    def store(self) -> bool:
        return self.kind.endswith("the store")


@dataclass
class Seen:
    """What a test can know afterwards."""

    living: list[tuple[Ended, int]]
    """On each rank but the culprit: how the call ended, and how many objects it had changed."""
    culprit: Ended
    """A killed one is DEAD; a stopped one goes on when the others have raised."""
    then: list[str]
    """What was in the folder when the others had raised."""
    names: list[str]
    """What was in it at the end."""
    fresh: tuple[int, bool, list[str]] = (0, False, [])
    """For a new start on one rank: the latest step, whether its bits are right, and what is left in the folder."""


class World:
    """The objects of one rank, and their coordinator."""

    def __init__(self, rank: Rank, folder: Path, **more: Any) -> None:
        self.rank = rank
        self.model, self.own = Box(), Box()
        self.hold(9)
        self.comm = more.pop("comm", None) or rank.comm("faults", kind=FaultyComm, timeout_s=TIMEOUT_S)
        components = [
            StateComponent("model", self.model),
            StateComponent("own", self.own, "per_rank", on_missing_copy="first"),
        ]
        self.coordinator = CheckpointCoordinator(components, Topology(rank.size), folder, comm=self.comm, **more)

    def hold(self, seed: int, large: int = 2 * MEGABYTE) -> None:
        self.model.state = state_of(seed, large)
        self.own.state = {"seed": seed, "rank": self.rank.number}

    def holds(self, seed: int, rank: int) -> bool:
        return self.own.state == {"seed": seed, "rank": rank} and bits(self.model.state) == bits(
            state_of(seed, 2 * MEGABYTE)
        )

    @property
    def loads(self) -> int:
        return self.model.loads + self.own.loads


def saved(folder: Path, size: int) -> Path:
    """A folder with a checkpoint of step 1."""

    def body(rank: Rank) -> None:
        world = World(rank, folder)
        world.hold(1)
        world.coordinator.save(1)

    run(body, size)
    return folder


def suffer(fault: Fault, folder: Path, gate: Any) -> Body:
    def body(rank: Rank) -> tuple[Ended, int]:
        rank.meet()
        gate.wait()
        if fault.what == "open":
            comm = rank.comm("faults", kind=FaultyComm, timeout_s=TIMEOUT_S)
            if rank.number == fault.rank:
                comm.arm(fault.point, fault.when, effect(fault.kind, rank))
            return caught(lambda: str(World(rank, folder, comm=comm))), 0
        world = World(rank, folder)
        world.hold(2)
        opened = rank.store("opened")
        if rank.number != fault.rank:
            opened.set(str(rank.number), "")  # gets no answer, so a store that ends right after it harms nobody
        else:
            opened.wait([str(number) for number in range(rank.size) if number != rank.number])
            world.comm.arm(fault.point, fault.when, effect(fault.kind, rank))
        calls: dict[str, Callable[[], Any]] = {
            "rehearse": world.coordinator.rehearse,
            "save": lambda: world.coordinator.save(2),
            "load": lambda: world.coordinator.load("latest").step,
        }
        return caught(calls[fault.what]), world.loads

    return body


def run_wave(faults: Sequence[Fault], folders: Sequence[Path]) -> list[Seen]:
    """Let all this happen at the same time."""
    seen = []
    gate = get_context("fork").Event()  # because a busy machine takes its time to start them all
    with ExitStack() as stack:
        started = [
            stack.enter_context(Ranks(suffer(fault, folder, gate), fault.size))
            for fault, folder in zip(faults, folders, strict=True)
        ]
        gate.set()
        for fault, folder, ranks in zip(faults, folders, started, strict=True):
            others = [number for number in range(fault.size) if number != fault.rank]
            living = [ended.value for ended in ranks.ended(*others)]
            then = visible(folder)
            if fault.kind == "stop":
                ranks.signal(fault.rank, signal.SIGCONT)
            (culprit,) = ranks.ended(fault.rank)
            culprit = culprit.value[0] if culprit.value else culprit
            seen.append(Seen(living, culprit, then, visible(folder)))

    def fresh(rank: Rank) -> list[tuple[int, bool, list[str]]]:
        return [start_again(rank, folder) for folder in folders]

    for one, found in zip(seen, run(fresh, 1)[0], strict=True):
        one.fresh = found
    return seen


def start_again(rank: Rank, folder: Path) -> tuple[int, bool, list[str]]:
    """Load the latest and claim the folder, as from another host, which cannot know whether earlier ranks live."""
    socket.gethostname = lambda: "another"
    world = World(rank, folder, comm=rank.comm(str(folder)))
    latest = world.coordinator.latest()
    report = world.coordinator.load("latest")
    assert report.path == latest
    world.coordinator.claim()
    return report.step, world.holds(report.step, 0), visible(folder)


class Waves:
    """Runs cases several at a time, when the first of them is asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.seen: dict[Fault, Seen] = {}

    @cached_property
    def bases(self) -> dict[int, Path]:
        return {size: saved(self.root / f"base-{size}", size) for size in (2, 4)}

    def __call__(self, fault: Fault, among: Sequence[Fault], size: int) -> Seen:
        if fault not in self.seen:
            start = among.index(fault) // size * size
            wave = among[start : start + size]
            folders = [self.root / f"{start + number} of {len(among)}" for number in range(len(wave))]
            for one, folder in zip(wave, folders, strict=True):
                shutil.copytree(self.bases[one.size], folder, symlinks=True)
            self.seen |= zip(wave, run_wave(wave, folders), strict=True)
            for folder in folders:
                shutil.rmtree(folder)
        return self.seen[fault]


@pytest.fixture(scope="module")
def waves(tmp_path_factory: pytest.TempPathFactory) -> Waves:
    return Waves(tmp_path_factory.mktemp("faults"))


def check(fault: Fault, seen: Seen) -> None:
    """What holds after every fault."""
    ended = [one for one, _ in seen.living]
    everyone = ended if seen.culprit == DEAD else [*ended, seen.culprit]
    assert [one.error for one in everyone] == ["CheckpointError"] * len(everyone)
    assert max(one.seconds for one in ended) < IN_TIME_S
    if fault.store:
        assert all("the rendezvous store, hosted by the launcher" in one.text for one in everyone)
    else:
        assert len({one.text for one in everyone}) == 1
        assert ended[0].phase == fault.point[0] and ended[0].culprits == (fault.rank,)
        assert ended[0].types == {"Injected" if fault.kind == "raise" else "Silent"}
        assert f"rank {fault.rank}" in ended[0].text
    if fault.what == "load" and fault.point[0] != "apply":
        assert [loads for _, loads in seen.living] == [0] * len(ended)
    newest = 2 if fault.commits else 1
    if fault.store and fault.point[0] == "commit":
        newest = 2 if "checkpoint-2" in seen.names else 1
    whole = ["checkpoint-1", *["checkpoint-2"] * (newest == 2), "latest"]
    assert seen.names == whole
    if fault.kind in ("kill", "stop"):  # else the culprit cleans up too
        assert seen.then == whole
    assert seen.fresh == (newest, True, whole)


QUICK = [
    Fault("kill", "save", ("plan", 2), 1),
    Fault("kill", "save", ("verify", 1), 1),
    Fault("kill", "save", ("write", 1), 0),
    Fault("kill", "save", ("commit", 1), 0),
    Fault("kill", "save", ("commit", 1), 0, when="after"),
    Fault("kill", "load", ("read", 1), 1),
    Fault("stop", "save", ("stage", 1), 0),
    Fault("stop", "save", ("verify", 1), 1),
    Fault("stop", "save", ("write", 1), 1),
    Fault("stop", "save", ("write", 2), 0),
    Fault("stop", "save", ("manifest", 1), 0),
    Fault("stop", "save", ("commit", 1), 0),
    Fault("kill", "rehearse", ("plan", 1), 1),
    Fault("stop", "rehearse", ("verify", 1), 0),
    Fault("stop", "load", ("find", 2), 0),
    Fault("stop", "load", ("apply", 1), 1),
    Fault("stop the store", "save", ("verify", 1), 1),
    Fault("stop the store", "open", ("open", 2), 0),
    Fault("kill the store", "save", ("write", 1), 0),
]  # fmt: skip
ALL_POINTS = {"open": OPEN, "rehearse": REHEARSE, "save": SAVE, "load": LOAD}
POINTS = [(what, point) for what, points in ALL_POINTS.items() for point in points]
ALL = [
    Fault(kind, what, point, rank, size, when)
    for kind, size, when in (
        ("kill", 2, "before"), ("kill", 2, "after"), ("stop", 4, "before"),
        ("stop the store", 2, "before"), ("kill the store", 2, "before"), ("raise", 4, "before"),
    )
    for what, point in POINTS
    for rank in ((0,) if "store" in kind else (0, size - 1))
    if when == "before" or what == "save"
]  # fmt: skip


@pytest.mark.parametrize("fault", QUICK, ids=str)
def test_after_a_fault_the_living_raise_the_same_and_the_last_checkpoint_stays(fault: Fault, waves: Waves) -> None:
    check(fault, waves(fault, QUICK, len(QUICK)))


@pytest.mark.slow
@pytest.mark.parametrize("fault", ALL, ids=str)
def test_after_every_fault_the_living_raise_the_same_and_the_last_checkpoint_stays(fault: Fault, waves: Waves) -> None:
    check(fault, waves(fault, ALL, WAVE))


# -- what the ranks survive --------------------------------------------------------------------------------------------

BOTH = [(what, point) for what, point in POINTS if what in ("save", "load")]
STORY = [(what, point, number % 2) for number, (what, point) in enumerate(BOTH)]
AGAIN = [
    ("save", point, 1 - rank)
    for what, point, rank in STORY
    if what == "save" and point not in (("plan", 2), ("verify", 1), ("write", 2))
]


@pytest.mark.slow
def test_after_an_exception_at_any_point_the_same_step_can_be_saved(tmp_path: Path) -> None:
    story = [(what, point, rank, "before") for what, point, rank in (*STORY, *AGAIN)]
    story += [
        ("save", ("write", 1), 1, "after"),
        ("save", ("manifest", 1), 0, "after"),
        ("save", ("commit", 1), 0, "after"),
    ]

    def body(rank: Rank) -> list[Any]:
        told = []
        world = World(rank, tmp_path, comm=rank.comm("story", kind=FaultyComm, timeout_s=2))
        world.hold(100, 0)
        world.coordinator.save(100)
        for step, (what, point, culprit, when) in enumerate(story, 101):
            world.hold(step, 0)
            if rank.number == culprit:
                world.comm.arm(point, when, effect("raise", rank))
            loads = world.loads
            ended = caught(lambda: world.coordinator.save(step) if what == "save" else world.coordinator.load("latest"))
            changed = world.loads - loads
            names = world.comm.on_rank_0("look", lambda: visible(tmp_path))
            world.hold(step, 0)  # a load that failed in `apply` has changed some
            again = caught(lambda: world.coordinator.save(step).name)
            told.append((ended, changed, names, again, world.coordinator.latest().name))
        return told

    first, second = run(body, 2)
    for step, ((what, point, culprit, when), *told) in enumerate(zip(story, first, second, strict=True), 101):
        (text,) = {ended.text for ended, *_ in told}
        committed = point[0] == "commit" and (culprit == 1 or when == "after")
        for ended, changed, names, again, latest in told:
            assert (ended.phase, ended.types, ended.culprits) == (point[0], {"Injected"}, (culprit,)), text
            assert f"rank {culprit} on" in text and "made by the test" in text
            assert changed == 0 or point[0] == "apply"
            assert names == sorted([*(f"checkpoint-{n}" for n in range(100, step + committed)), "latest"])
            assert latest == f"checkpoint-{step}"
            assert again.types == {"FileExistsError"} if committed else again.value == latest


def test_a_silent_store_names_the_rank_that_hosts_it(tmp_path: Path) -> None:
    """As under srun, where no launcher outlives the ranks."""

    class Stopping(Box):
        def state_dict(self) -> Any:
            os.kill(os.getpid(), signal.SIGSTOP)

    def body(rank: Rank) -> Ended:
        os.environ.pop("TORCHELASTIC_USE_AGENT_STORE", None)
        ports, first = rank.store("ports"), rank.number == 0
        port = 0 if first else int(ports.get("port"))
        store = TCPStore(LOOPBACK, port, is_master=first, wait_for_workers=False)
        if first:
            ports.set("port", str(store.port))
        dist.init_process_group("gloo", store=store, rank=rank.number, world_size=rank.size)
        components = [StateComponent("thing", Stopping() if first else Box({"a": 1}))]
        coordinator = CheckpointCoordinator(components, Topology(2), tmp_path / "run", timeout_s=TIMEOUT_S)
        return caught(lambda: coordinator.save(1))

    with Ranks(body, 2) as ranks:
        (ended,) = ranks.ended(1)
        assert "the rendezvous store, hosted by rank 0, is silent" in ended.value.text
        assert ended.value.seconds < IN_TIME_S


def test_a_rank_that_does_not_come_is_named_and_comes_too_late(tmp_path: Path) -> None:
    def body(rank: Rank) -> Ended:
        world = World(rank, tmp_path)
        world.coordinator.save(1)
        if rank.number == 2:
            rank.store("late").wait(["others are done"])
        ended = caught(lambda: world.coordinator.save(2))
        rank.store("late").set("others are done", "")
        return ended

    told = run(body, 3)
    (text,) = {ended.text for ended in told}
    assert "rank 2: Silent" in text and "dead, stopped or stuck" in text
    assert [ended.phase for ended in told] == ["plan"] * 3 and told[0].seconds < IN_TIME_S
    assert visible(tmp_path) == ["checkpoint-1", "latest"]


def test_a_rank_of_an_older_attempt_that_wakes_up_commits_nothing(tmp_path: Path) -> None:
    folder = saved(tmp_path / "run", 2)

    def body(rank: Rank) -> Ended:
        world = World(rank, folder)
        world.comm.arm(("commit", 1), "before", effect("kill" if rank.number else "stop", rank))
        return caught(lambda: world.coordinator.save(2))

    with Ranks(body, 2) as ranks:
        assert ranks.ended(1) == [DEAD]
        os.waitid(os.P_PID, ranks.processes[0].pid or 0, os.WSTOPPED | os.WNOWAIT)
        assert any(name.startswith(".staging") for name in os.listdir(folder))
        assert run(lambda rank: start_again(rank, folder), 1) == [(1, True, ["checkpoint-1", "latest"])]
        ranks.signal(0, signal.SIGCONT)
        assert ranks.ended(0)[0].value.types >= {"SupersededError"}
    assert visible(folder) == ["checkpoint-1", "latest"]


def test_a_first_rank_that_was_given_up_does_not_commit(tmp_path: Path) -> None:
    """Not even where the others could not take the staging folder away."""
    folder = saved(tmp_path / "run", 2)

    def body(rank: Rank) -> Ended:
        world = World(rank, folder)
        if rank.number:
            world.coordinator.storage.discard = lambda folder: None
        else:
            world.comm.arm(("commit", 1), "before", effect("stop", rank))
        return caught(lambda: world.coordinator.save(2))

    with Ranks(body, 2) as ranks:
        (other,) = ranks.ended(1)
        assert (other.value.phase, other.value.culprits) == ("commit", (0,))
        assert "checkpoint-2 exists, it is complete; otherwise only this save was lost" in other.value.text
        assert any(name.startswith(".staging") for name in os.listdir(folder))
        ranks.signal(0, signal.SIGCONT)
        assert ranks.ended(0)[0].value.phase == "commit"
    assert visible(folder) == ["checkpoint-1", "latest"]


@pytest.mark.parametrize("when", ["before", "after"])
def test_after_the_end_of_all_ranks_a_new_start_finds_the_newest_and_sweeps(when: str, tmp_path: Path) -> None:
    base = saved(tmp_path / "base", 2)
    folders = {point: tmp_path / f"{point[0]}-{point[1]}" for point in SAVE}
    for folder in folders.values():
        shutil.copytree(base, folder, symlinks=True)

    def dying(point: Point) -> Body:
        def body(rank: Rank) -> None:
            world = World(rank, folders[point])
            world.hold(2)
            world.comm.arm(point, when, effect("kill", rank))
            world.coordinator.save(2)

        return body

    with ExitStack() as stack:
        for ranks in [stack.enter_context(Ranks(dying(point), 2)) for point in SAVE]:
            assert ranks.ended() == [DEAD, DEAD]
    left = {point: [name for name in visible(folder) if name.startswith(".")] for point, folder in folders.items()}
    assert len(left["verify", 1]) == 1
    for point, found in zip(
        SAVE, run(lambda rank: [start_again(rank, folders[point]) for point in SAVE], 1)[0], strict=True
    ):
        newest = ["checkpoint-2"] * (point[0] == "commit" and when == "after")
        assert found == (1 + len(newest), True, ["checkpoint-1", *newest, "latest"])


# -- a full disk -------------------------------------------------------------------------------------------------------


class FullDisk(Storage):
    """Fills the disk before one operation: with bytes, or with files where the disk bounds their number."""

    def __init__(self, disk: Path, real: bool) -> None:
        super().__init__(disk / "run")
        self.disk, self.real = disk, real
        self.before: str | None = None
        """`plan`, `commit`, or part of the name of a file."""

    def fill(self, operation: str) -> None:
        if self.before is None or self.before not in operation:
            return
        self.before = None
        if not self.real:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with suppress(OSError):
            for number in range(10_000):
                (self.disk / f"ballast-{number}").touch()
        with suppress(OSError), (self.disk / "ballast-0").open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)

    def free(self) -> None:
        for ballast in self.disk.glob("ballast-*"):
            ballast.unlink()

    def make_temporary(self, step: int) -> None:
        self.fill("plan")
        super().make_temporary(step)

    def write(self, path: Path, buffers: Any) -> int:
        self.fill(path.name)
        return super().write(path, buffers)

    def commit(self, step: int) -> Path:
        self.fill("commit")
        return super().commit(step)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[Path, bool]]:
    """A small disk, and whether it is a real one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = "size=16m,nr_inodes=200"
    real = (
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], capture_output=True).returncode
        == 0
    )
    yield folder, real
    if real:
        subprocess.run(["umount", str(folder)], check=True)


FULL = {
    "plan": (0, "plan"),
    "model-00001-of-00002.safetensors": (0, "write"),
    "model-00002-of-00002.safetensors": (1, "write"),
    "rank-00001.safetensors": (1, "write"),
    "index.json": (0, "manifest"),
    "checkpoint_manifest.json": (0, "manifest"),
    "commit": (0, "commit"),
}


def test_a_full_disk_stops_all_ranks_and_when_it_has_room_again_the_step_is_saved(disk: tuple[Path, bool]) -> None:
    folder, real = disk

    def body(rank: Rank) -> list[Any]:
        storage = FullDisk(folder, real)
        storage.root.mkdir(exist_ok=True)
        world = World(rank, folder, comm=rank.comm("full", timeout_s=10), storage=storage)
        told = []
        for step, (operation, (culprit, _)) in enumerate(FULL.items(), 1):
            storage.before = operation if rank.number == culprit else None
            world.hold(step)
            ended = caught(lambda: world.coordinator.save(step).name)
            names = world.comm.on_rank_0("look", lambda: visible(storage.root))
            world.comm.agree("free", lambda: storage.free() if rank.number == 0 else None)
            again = caught(lambda: world.coordinator.save(step).name)
            told.append((ended, names, again))
            world.coordinator.delete([step])
        return told

    for rank, told in enumerate(run(body, 2)):
        for step, ((operation, (culprit, phase)), (ended, names, again)) in enumerate(
            zip(FULL.items(), told, strict=True), 1
        ):
            if operation == "commit" and real:  # only the link for people has no room, after the rename
                assert ended.error == "" and f"checkpoint-{step}" in names and again.types == {"FileExistsError"}
                continue
            assert ended.error == "CheckpointError" and ended.phase == phase, (operation, rank, ended)
            assert culprit in ended.culprits and ended.types <= {"OSError", "FileAccessError"}
            assert "No space left on device" in ended.text
            assert [name for name in names if name != "latest"] == []
            assert again.value == f"checkpoint-{step}"
