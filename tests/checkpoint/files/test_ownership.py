"""Who has claimed a folder of checkpoints may write to it, one at a time; all others only read."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from solo import boxed, visible

from dcp_runner import CheckpointError
from dcp_runner.checkpoint.files import ownership
from dcp_runner.checkpoint.files.ownership import Identity, Owner, owner_of
from dcp_runner.checkpoint.files.storage import Storage

FORK = multiprocessing.get_context("fork")
TOLD = r"attempt 2 \(pid \d+ on .*, since .*\) has taken over .* from attempt 1, which saves nothing more"
LIMIT_S = 30


class Interrupted(Storage):
    """Something happens after each write."""

    def __init__(self, root: Path, happens: Callable[[], object]) -> None:
        super().__init__(root)
        self._happens = happens

    def write(self, *arguments: object) -> int:
        size = super().write(*arguments)  # type: ignore[arg-type]
        self._happens()
        return size


def state_of(folder: Path) -> dict[str, int]:
    """Every file and folder with the time of its last change."""
    return {str(path): path.lstat().st_mtime_ns for path in (folder, *folder.rglob("*"))}


@contextmanager
def elsewhere(host: str = "another") -> Iterator[None]:
    """As if on another host."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "gethostname", lambda: host)
        yield


def in_child(body: Callable[[], Any], *, stays: bool = False) -> Any:
    """Call in a forked process; the process, once `body` has returned there. It stays alive until it is killed."""
    done = FORK.Event()

    def main() -> None:
        body()
        done.set()
        if stays:
            signal.pause()
        os._exit(0)

    child = FORK.Process(target=main, daemon=True)
    child.start()
    assert done.wait(LIMIT_S)
    return child


def rewrite(root: Path, **fields: Any) -> None:
    """Change the record of the claim that stands."""
    file = root / f".owner-{owner_of(root).number}" / "owner.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


# -- readers -----------------------------------------------------------------------------------------------------------


def test_a_reader_changes_nothing_while_a_save_is_under_way(tmp_path: Path) -> None:
    """Neither by being made nor by anything it is asked."""
    seen: list[bool] = []

    def read() -> None:
        before = state_of(tmp_path)
        box, reader = boxed(tmp_path)
        reader.load("latest")
        reader.load(1)
        reader.verify(tmp_path / "checkpoint-1")
        assert reader.latest() and list(reader.list()) == list(reader.steps()) == [1]
        reader.check_visible()
        seen.append(box.state == 7 and state_of(tmp_path) == before)

    boxed(tmp_path, 7)[1].save(1)
    _, writer = boxed(tmp_path, 8, storage=Interrupted(tmp_path, read))
    writer.save(2)
    assert seen and all(seen)
    assert visible(tmp_path) == ["checkpoint-1", "checkpoint-2", "latest"]


def test_a_reader_makes_no_folder(tmp_path: Path) -> None:
    _, reader = boxed(tmp_path / "none")
    assert reader.latest() is None and list(reader.list()) == []
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        reader.load("latest")
    assert list(tmp_path.iterdir()) == []


# -- one after the other -----------------------------------------------------------------------------------------------


def test_the_last_claim_stands_in_every_phase(tmp_path: Path) -> None:
    written: list[int] = []
    _, first = boxed(tmp_path, 1, attempt="1", storage=Interrupted(tmp_path, lambda: written.append(1)))
    first.save(1)
    _, second = boxed(tmp_path, 2, attempt="2")
    first.save(2)  # to open a folder claims nothing
    second.save(3)
    written.clear()
    for call in (
        lambda: first.save(4),
        lambda: first.delete([1]),
        lambda: first.retire_after(1),
        lambda: first.save(4),
    ):
        with pytest.raises(CheckpointError, match=TOLD) as failure:
            call()
        assert failure.value.types == {"SupersededError"}
    assert not written, "it is found out before the work"
    second.save(4)
    assert visible(tmp_path) == [*(f"checkpoint-{step}" for step in (1, 2, 3, 4)), "latest"]


def test_a_claim_in_the_middle_of_a_save_is_the_reason_of_its_failure(tmp_path: Path) -> None:
    """Not that a folder is missing, which the new claimant has swept."""
    _, second = boxed(tmp_path, 2, attempt="2")
    _, first = boxed(tmp_path, 1, attempt="1", storage=Interrupted(tmp_path, second.claim))
    with pytest.raises(CheckpointError, match=TOLD) as failure:
        first.save(1)
    assert failure.value.phase in ("write", "manifest")
    assert visible(tmp_path) == [], "nothing half-written stays behind either"
    second.save(1)
    assert visible(tmp_path) == ["checkpoint-1", "latest"]


def test_a_superseded_save_takes_nothing_of_the_new_owner_away(tmp_path: Path) -> None:
    """Both are attempt 1 of their run folders, and save the same step."""
    _, first = boxed(tmp_path, 1, attempt="1")
    first.claim()
    refused: list[str] = []

    def first_saves() -> None:
        with pytest.raises(CheckpointError) as failure:
            first.save(1)
        refused.append(str(failure.value))

    with elsewhere():
        _, second = boxed(tmp_path, 2, attempt="1", storage=Interrupted(tmp_path, first_saves))
        second.save(1)
    assert refused and all("has taken over" in text and "on another" in text for text in refused)
    assert visible(tmp_path) == ["checkpoint-1", "latest"]


# -- who lives ---------------------------------------------------------------------------------------------------------


def test_while_the_owner_lives_a_second_start_is_refused(tmp_path: Path) -> None:
    child = in_child(lambda: boxed(tmp_path, 1, attempt="1")[1].save(1), stays=True)
    before = state_of(tmp_path)
    _, mine = boxed(tmp_path, 2, attempt="2")
    for call in (lambda: mine.save(2), lambda: mine.delete([1]), lambda: mine.retire_after(0), mine.claim):
        with pytest.raises(CheckpointError) as failure:
            call()
        text = str(failure.value)
        assert failure.value.types == {"OccupiedError"} and f"(pid {child.pid} on {socket.gethostname()}, since" in text
        assert f"kill {child.pid}" in text and "checkpoint.root=" in text, "the remedies"
    assert state_of(tmp_path) == before
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a process that only its parent knows has ended
    boxed(tmp_path, 2)[1].save(2)
    child.join()
    assert visible(tmp_path) == ["checkpoint-1", "checkpoint-2", "latest"]


@pytest.mark.parametrize("how", ["released", "its number is used again", "torn", "empty", "another host"])
def test_an_owner_that_does_not_live_is_no_obstacle(how: str, tmp_path: Path) -> None:
    def other() -> None:
        _, coordinator = boxed(tmp_path, 1, attempt="1")
        coordinator.save(1)
        if how == "released":
            coordinator.release()

    child = in_child(other, stays=True)
    file = tmp_path / ".owner-1" / "owner.json"
    if how == "its number is used again":
        rewrite(tmp_path, started="an earlier process")
    elif how == "another host":
        rewrite(tmp_path, host="another")
    elif how != "released":
        file.write_text("" if how == "empty" else file.read_text()[:40])
    _, mine = boxed(tmp_path, 2)
    mine.save(2)
    assert owner_of(tmp_path).number == 2 and owner_of(tmp_path).pid == os.getpid()
    child.kill()
    child.join()


def test_who_releases_may_claim_again(tmp_path: Path) -> None:
    _, mine = boxed(tmp_path, 1)
    mine.save(1)
    mine.release()
    in_child(lambda: boxed(tmp_path, 2)[1].save(2)).join()
    mine.save(3)
    assert owner_of(tmp_path).number == 3


def test_a_start_that_was_overtaken_before_it_claimed_does_not_claim(tmp_path: Path) -> None:
    """An older start, stopped somewhere before its claim and woken up late."""
    _, late = boxed(tmp_path, 1, attempt="1")
    with elsewhere():
        boxed(tmp_path, 2, attempt="2")[1].save(1)
    with pytest.raises(
        CheckpointError, match=r"attempt 2 .*on another.* claimed .* while attempt 1 was starting"
    ) as failure:
        late.save(2)
    assert failure.value.types == {"SupersededError"}
    _, newer = boxed(tmp_path, 3, attempt="3")
    newer.save(2)


# -- at the same time, and cut short -----------------------------------------------------------------------------------


def racing(root: Path, hosts: int) -> list[str]:
    """How eight processes end that claim a folder at once."""
    start, results = FORK.Barrier(8), FORK.SimpleQueue()

    def body(number: int) -> None:
        socket.gethostname = lambda: f"host-{number % hosts}"
        storage = Storage(root)
        start.wait(LIMIT_S)
        try:
            results.put(str(storage.claim(str(number), lambda found: found, 0).number))
        except Exception as error:
            results.put(type(error).__name__)
        start.wait(LIMIT_S)  # alive until all have tried

    children = [FORK.Process(target=body, args=(number,), daemon=True) for number in range(8)]
    for child in children:
        child.start()
    found = sorted(results.get() for _ in children)
    for child in children:
        child.join(LIMIT_S)
    return found


@pytest.mark.parametrize(("hosts", "error"), [(1, "OccupiedError"), (8, "SupersededError")])
def test_of_many_that_claim_at_once_one_has_it(hosts: int, error: str, tmp_path: Path) -> None:
    for turn in range(3):
        root = tmp_path / str(turn)
        assert racing(root, hosts) == ["1", *[error] * 7]
        assert sorted(path.name for path in root.iterdir()) == [".owner-1"]


def test_a_number_that_a_higher_claim_has_freed_is_worth_nothing(tmp_path: Path) -> None:
    """It was read before others claimed and swept."""
    for _ in range(3):
        boxed(tmp_path)[1].claim()
    stale = replace(owner_of(tmp_path), number=1, attempt="stale")
    assert not ownership._publish(tmp_path, stale)
    assert [path.name for path in tmp_path.iterdir()] == [".owner-3"]


def kill_at(number: int, root: Path) -> None:
    """Die at the n-th operation on the file system below `root`, before it is done."""
    count = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event in WRITING and any(str(root) in str(argument) for argument in arguments[:2]):
            count += event != "open" or "r" not in str(arguments[1])
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


WRITING = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.listdir")


@pytest.mark.slow
def test_killed_anywhere_in_a_claim_the_next_start_goes_on(tmp_path: Path) -> None:
    """A claim of the second start over that of a dead one, with something half-written to sweep, and its first save."""

    def start(root: Path) -> None:
        _, coordinator = boxed(root, 2, attempt="2")
        coordinator.claim(lambda found: replace(found, run=found.run or "made"))
        coordinator.retire_after(1)
        coordinator.save(2)

    codes = []
    for number in range(1, 100):
        root = tmp_path / str(number)
        child = in_child(lambda root=root: [boxed(root, 1, attempt="1")[1].save(step) for step in (1, 2)])
        child.join(LIMIT_S)
        (root / ".staging-1-checkpoint-9").mkdir()
        child = FORK.Process(target=lambda root=root, number=number: (kill_at(number, root), start(root)))
        child.start()
        child.join(LIMIT_S)
        codes.append(child.exitcode)
        first = owner_of(root)
        assert first.number in (2, 3) and first.identity in (Identity(), Identity("made"))
        _, again = boxed(root, 3, attempt="3")
        again.claim(lambda found: replace(found, run=found.run or "anew"))
        assert again.storage.owner and again.storage.owner.number == first.number + 1
        assert again.storage.owner.identity.run == (first.identity.run or "anew"), "adopted with the claim, or not"
        again.verify(root / "checkpoint-1")
        again.save(3)
        hidden = [path.name for path in root.iterdir() if path.name.startswith(".")]
        assert hidden == [f".owner-{first.number + 1}"], (number, hidden)
        if child.exitcode == 0:
            break
    assert codes[-1] == 0 and set(codes[:-1]) == {-signal.SIGKILL} and len(codes) > 20, codes


def test_claims_are_equal_only_where_all_is(tmp_path: Path) -> None:
    _, coordinator = boxed(tmp_path, attempt="1")
    coordinator.claim()
    mine = coordinator.storage.owner
    assert mine == owner_of(tmp_path) and isinstance(mine, Owner)
    rewrite(tmp_path, pid=1)  # somebody has removed all claims, and another has made the first one
    with pytest.raises(CheckpointError, match="has taken"):
        coordinator.save(1)


@pytest.mark.parametrize("again", [False, True])
def test_a_folder_that_is_removed_under_a_run_is_noticed(again: bool, tmp_path: Path) -> None:
    """Also where an empty one stands there again."""
    _, coordinator = boxed(tmp_path / "run", {})
    coordinator.save(1)
    (tmp_path / "run").rename(tmp_path / "moved")
    if again:
        (tmp_path / "run").mkdir()
    with pytest.raises(CheckpointError, match="was removed, moved or replaced while the run went on"):
        coordinator.save(2)
    assert not again or list((tmp_path / "run").iterdir()) == []


def test_who_has_lost_the_folder_does_not_release_the_claim_of_another(tmp_path: Path) -> None:
    """Both claims have number 1, because the first folder was removed."""
    _, old = boxed(tmp_path / "run", {}, attempt="old")
    old.save(1)
    (tmp_path / "run").rename(tmp_path / "moved")
    _, new = boxed(tmp_path / "run", {}, attempt="new")
    new.save(1)
    old.release()
    assert not owner_of(tmp_path / "run").released
    new.save(2)
