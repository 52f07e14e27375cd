"""Which code a sweep runs: the git commit and what differs from it; and, on wish, a copy to run from."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

DIFF, COPY = "code.diff", "code"


def top_of(place: Path) -> Path | None:
    """The root of the git repository around a folder; None: there is none, or no git."""
    told = _git(place, "rev-parse", "--show-toplevel")
    return Path(told.strip()) if told else None


def note_code(place: Path, sweep: Path) -> dict[str, Any]:
    """The commit of the repository around `place`; what differs from it goes to `code.diff` of the sweep's folder."""
    top = top_of(place)
    if top is None:
        return {}
    diff = _git(top, "diff", "HEAD", "--binary") or ""
    new = (_git(top, "ls-files", "--others", "--exclude-standard") or "").splitlines()
    if diff:
        (sweep / DIFF).write_text(diff, encoding="utf-8")
    commit = (_git(top, "rev-parse", "--verify", "--quiet", "HEAD") or "").strip()
    return {"commit": commit, "changed": bool(diff), "new_files": new}


def copy_code(place: Path, sweep: Path) -> Path:
    """Copy what git knows around `place`, and new files that it does not ignore, into the sweep's folder. Returns the
    copy of `place`.

    Raises:
        FileNotFoundError: there is no git repository.
    """
    top = top_of(place)
    if top is None:
        raise FileNotFoundError(
            f"hydra.launcher.snapshot: nothing says what to copy, as {place} is in no git repository"
        )
    listed = _git(top, "ls-files", "-z", "--cached", "--others", "--exclude-standard") or ""
    target = sweep / COPY
    for name in filter(None, listed.split("\0")):
        source = top / name
        if source.is_file() and target not in source.parents:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name, follow_symlinks=False)
        elif source.is_symlink():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).symlink_to(source.readlink())
    return target / place.resolve().relative_to(top.resolve())


def _git(place: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(place), *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode == 0 else None
