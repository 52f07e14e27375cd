"""Which process may write to a checkpoint root: numbered claims, of which the highest is in force.

    <root>/.owner-7/owner.json      claim 7: the run it is for, and the process that made it
    <root>/.owner-7/released        the process of claim 7 writes nothing more

A claim is a folder that is renamed into place, complete. The file system lets that succeed once for a number, whatever
the host, and needs neither links nor locks for it. A number is never used twice: a claim removes all lower ones.
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
    """A random id, the same in the run folder and in its checkpoint root; empty: none yet."""
    sweep: str = ""
    """`<id of the sweep>/<number of the job>`; empty: not a job of a sweep."""
    folder: str = ""
    """The run folder of the last start, absolute."""


Identify = Callable[[Identity], Identity]
"""From the identity that the folder has to that of the start that claims it; raises where they are two runs."""


class OwnerState(Enum):
    """State of the process that made a claim, as far as this one can know."""

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
    """Boot and clock tick at which the process started: a process id is reused, this is not."""
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


UNOWNED = Owner()


def start_of(pid: int | Literal["self"]) -> str:
    """When a process of this host started; empty where there is none, or where it has ended as a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if fields[0] in "ZX" else f"{boot}/{fields[19]}"


def owner_of(root: Path) -> Owner:
    """The claim that is in force in a folder; UNOWNED where there is none. Writes nothing."""
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
    """Claim a folder for this process; `seen` is the number of the claim in force when this process started.

    Raises OccupiedError while the owner lives on this host, SupersededError where a start on another host has claimed
    the folder since then, and whatever `identify` raises. None of them leaves a trace.
    """
    while True:
        owner = owner_of(root)
        if owner.state is OwnerState.alive:
            raise OccupiedError(
                f"{root} is in use by {owner}, which is alive; wait for it to end, or end it (kill {owner.pid}), "
                "or choose another folder (name=, checkpoint.root=); in Python, its coordinator.release() gives it up"
            )
        if owner.state is OwnerState.elsewhere and owner.number > seen:
            raise SupersededError(
                f"{owner} claimed {root} while attempt {attempt} was starting, so this attempt saves nothing"
            )
        own = Owner(
            number=owner.number + 1,
            identity=identify(owner.identity),
            attempt=attempt,
            host=socket.gethostname(),
            pid=os.getpid(),
            started=start_of("self"),
            since=datetime.now().isoformat(sep=" ", timespec="seconds"),
        )
        if _publish(root, own):
            return own


def _publish(root: Path, own: Owner) -> bool:
    """Make the claim; False where another process has taken this number, or a higher one."""
    plain: dict[str, Any] = asdict(own)
    del plain["number"], plain["released"]
    target = root / f"{OWNER}{own.number}"
    with writing(root):
        root.mkdir(parents=True, exist_ok=True)
        published = make_once(target, RECORD, plain, root / f"{UNFINISHED}{uuid.uuid4().hex}")
    if owner_of(root) == own:
        return True
    if published:  # a number that was free because a higher claim had removed it
        shutil.rmtree(target, ignore_errors=True)
    return False


def make_once(target: Path, name: str, plain: dict[str, Any], tmp_path: Path) -> bool:
    """Make a folder that holds one JSON file, in one step; False where the folder exists already, or where another
    process has removed `tmp_path`, in which it is prepared.
    """
    try:
        tmp_path.mkdir()
        with (tmp_path / name).open("x", encoding="utf-8") as file:
            json.dump(plain, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        sync(tmp_path)
        os.rename(tmp_path, target)
        return True
    except FileNotFoundError:
        return False
    except OSError:
        if target.exists():
            return False
        raise
    finally:
        shutil.rmtree(tmp_path, ignore_errors=True)


def release(root: Path, own: Owner) -> None:
    """Mark the claim as released, if it is still in force. Where that fails, other processes see it when this one
    ends.
    """
    with suppress(OSError):
        if owner_of(root) != own:  # the folder has been replaced by one that another run has claimed
            return
        (root / f"{OWNER}{own.number}" / RELEASED).touch()


def obsolete(root: Path, own: Owner) -> list[Path]:
    """Earlier claims, finished or not."""
    found = [path for path in root.glob(f"{OWNER}*") if path.name != f"{OWNER}{own.number}"]
    return [*found, *root.glob(f"{UNFINISHED}*")]
