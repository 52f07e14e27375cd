"""Where a run lives. Each start of it gets the next attempt folder, which holds the configuration it was started with.

<run_dir>/attempts/1/.hydra/{config,hydra,overrides}.yaml
<run_dir>/attempts/2/...
<run_dir>/.hydra -> attempts/2/.hydra        for people; never read
<run_dir>/logs/
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryFile

from dcp_runner.common.links import point

ATTEMPTS, LOGS, OUTCOMES = "attempts", "logs", "outcomes"


def new_attempt(run_dir: Path, hydra_files: Mapping[str, str]) -> int:
    """Claim the next attempt number of a run folder and write the given files once; making the folder is the lock.

    Raises:
        OSError: the folder cannot be written.
    """
    attempts = run_dir / ATTEMPTS
    attempts.mkdir(parents=True, exist_ok=True)
    (run_dir / LOGS).mkdir(exist_ok=True)
    last = last_attempt(run_dir)
    number = 1 + (int(last.name) if last else 0)
    while True:
        try:
            (attempts / str(number)).mkdir()
            break
        except FileExistsError:
            number += 1
    (attempts / str(number) / OUTCOMES).mkdir()
    written = attempts / str(number) / ".hydra"
    written.mkdir()
    for name, text in hydra_files.items():
        (written / name).write_text(text, encoding="utf-8")
    point(run_dir / ".hydra", Path(ATTEMPTS, str(number), ".hydra"), beside=run_dir / f".hydra.{number}")
    return number


def obstacle(folder: Path) -> str | None:
    """Why a folder, which need not be there, is none and cannot be made; in words for people. Makes nothing."""
    for place in (folder, *folder.parents):
        try:
            place.stat()
        except (FileNotFoundError, NotADirectoryError):
            if place.is_symlink():
                return f"{place} is a link that leads nowhere"
            continue
        except OSError as error:  # too long a name, a circle of links, no permission to look
            return f"{place}: {error.strerror}"
        return None if place.is_dir() else f"{place} is no folder"
    return None


def unwritable(folder: Path) -> str | None:
    """Why nothing can be written to a folder, or it cannot be made. Tried with a file that has no name, in the folder
    or the nearest one above that is there.
    """
    if (why := obstacle(folder)) is not None:
        return why
    there = next(place for place in (folder, *folder.parents) if place.is_dir())
    try:
        with TemporaryFile(dir=there) as file:
            file.write(b"anything")
    except OSError as error:
        return f"{there}: {error.strerror}"
    return None


def last_attempt(run_dir: Path) -> Path | None:
    """The folder of the newest attempt of a run; None: it has never been started."""
    numbers = [int(path.name) for path in (run_dir / ATTEMPTS).glob("*") if path.name.isdecimal()]
    return attempt_dir(run_dir, max(numbers)) if numbers else None


def attempt_dir(run_dir: Path, number: int) -> Path:
    return run_dir / ATTEMPTS / str(number)


def log_file(run_dir: Path, rank: int) -> Path:
    return run_dir / LOGS / f"rank-{rank:05d}.log"
