"""Which process may write to the folder of the checkpoints: numbered claims, of which the highest stands.

    <root>/.owner-7/owner.json      claim 7: the run it is for, and the process that made it
    <root>/.owner-7/released        that process writes nothing more

A claim is a folder that is renamed into place, complete. The file system lets that succeed once for a number, whatever
the host, and needs neither links nor locks for it. A number is never used twice: lower claims go when a higher stands.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any, Literal

from dcp_runner.checkpoint.errors import OccupiedError, SupersededError
from dcp_runner.common.files import sync, writing

OWNER, RECORD, RELEASED, UNFINISHED = ".owner-", "owner.json", "released", ".claiming-"


@dataclass(frozen=True)
class Identity:
    """The run that a folder belongs to."""

    run: str = ""
    """A random id, the same in the run folder and in the folder of its checkpoints; empty: none yet."""
    sweep: str = ""
    """`<id of the sweep>/<number of the job>`; empty: no job of a sweep."""
    folder: str = ""
    """The run folder of the last start, absolute."""


Identify = Callable[[Identity], Identity]
"""From the identity that the folder has to that of the start that claims it; raises where they are two runs."""


class OwnerState(Enum):
    """Of the process that made a claim, as far as this one can know."""

    ours = "this process"
    alive = "alive on this host"
    gone = "ended, or has released the folder"
    elsewhere = "on another host, where it may be alive or not"


@dataclass(frozen=True)
class Owner:
    """One claim."""

    number: int = 0
    identity: Identity = Identity()
    attempt: str = ""
    host: str = ""
    pid: int = 0
    started: str = ""
    """Boot and clock tick at which the process began: a process id is used again, this is not."""
    since: str = ""
    """When the claim was made, local time."""
    released: bool = False

    def __str__(self) -> str:
        return f"attempt {self.attempt} (pid {self.pid} on {self.host}, since {self.since})"

    @property
    def state(self) -> OwnerState:
        if self.released or not self.host:
            return OwnerState.gone
        if self.host != socket.gethostname():
            return OwnerState.elsewhere
        if self.pid == os.getpid() and self.started == start_of("self"):
            return OwnerState.ours
        return OwnerState.alive if self.started and self.started == start_of(self.pid) else OwnerState.gone


NOBODY = Owner()


def start_of(pid: int | Literal["self"]) -> str:
    """When a process of this host began; empty where there is none, or it has ended and only its parent knows yet."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if fields[0] in "ZX" else f"{boot}/{fields[19]}"


def owner_of(root: Path) -> Owner:
    """The claim that stands in a folder; NOBODY where there is none. Writes nothing."""
    names = os.listdir(root) if root.is_dir() else []
    number = max((int(found[1]) for name in names if (found := re.fullmatch(r"\.owner-(\d+)", name))), default=0)
    folder = root / f"{OWNER}{number}"
    try:
        plain = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        if number and not folder.exists():
            return owner_of(root)  # a higher claim has removed it since
        return Owner(number)  # none, or a record that a power failure has torn: of a process that has ended
    identity = Identity(**plain.pop("identity"))
    return Owner(number=number, identity=identity, **plain, released=(folder / RELEASED).exists())


def claim(root: Path, attempt: str, identify: Identify, seen: int) -> Owner:
    """Claim a folder for this process; `seen` is the number of the claim that stood when this start began.

    Raises OccupiedError while the owner lives on this host, SupersededError where a start on another host has claimed
    the folder since this one began, and whatever `identify` raises. None of them leaves a trace.
    """
    while True:
        owner = owner_of(root)
        if owner.state is OwnerState.alive:
            raise OccupiedError(
                f"{root} is being written by {owner}, which is alive; wait for its end or end it (kill {owner.pid}), "
                "or give another folder (name=, checkpoint.root=); in Python its coordinator.release() gives it up"
            )
        if owner.state is OwnerState.elsewhere and owner.number > seen:
            raise SupersededError(f"{owner} has claimed {root} while attempt {attempt} began; it saves nothing")
        mine = Owner(
            number=owner.number + 1,
            identity=identify(owner.identity),
            attempt=attempt,
            host=socket.gethostname(),
            pid=os.getpid(),
            started=start_of("self"),
            since=datetime.now().isoformat(sep=" ", timespec="seconds"),
        )
        if _publish(root, mine):
            return mine


def _publish(root: Path, mine: Owner) -> bool:
    """Whether nobody else has taken this number, nor a higher one."""
    plain: dict[str, Any] = asdict(mine)
    del plain["number"], plain["released"]
    target = root / f"{OWNER}{mine.number}"
    with writing(root):
        root.mkdir(parents=True, exist_ok=True)
        made = make_once(target, RECORD, plain, root / f"{UNFINISHED}{uuid.uuid4().hex}")
    if owner_of(root) == mine:
        return True
    if made:  # a number that was free because a higher claim had removed it
        shutil.rmtree(target, ignore_errors=True)
    return False


def make_once(target: Path, name: str, plain: dict[str, Any], beside: Path) -> bool:
    """Make a folder that holds one JSON file, in one step; False where the folder is there already, or `beside` was
    taken for a leftover.
    """
    try:
        beside.mkdir()
        with (beside / name).open("x", encoding="utf-8") as file:
            json.dump(plain, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        sync(beside)
        os.rename(beside, target)
        return True
    except FileNotFoundError:
        return False
    except OSError:
        if target.exists():
            return False
        raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def release(root: Path, mine: Owner) -> None:
    """Tell other processes that this one writes nothing more, if it still owns the folder. Where that fails, its end
    tells them.
    """
    with suppress(OSError):
        if owner_of(root) != mine:  # replaced by a folder that another run has claimed
            return
        (root / f"{OWNER}{mine.number}" / RELEASED).touch()


def obsolete(root: Path, mine: Owner) -> list[Path]:
    """What earlier claims have left."""
    found = [path for path in root.glob(f"{OWNER}*") if path.name != f"{OWNER}{mine.number}"]
    return [*found, *root.glob(f"{UNFINISHED}*")]
