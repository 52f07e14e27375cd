"""Which code a sweep runs: the git commit and what differs from it; and, on wish, a copy to run from."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

DIFF, COPY = "code.diff", "code"
_AS_IT_IS = ("--binary", "--no-color", "--no-ext-diff", "--no-textconv", "--src-prefix=a/", "--dst-prefix=b/")
"""Whatever the user has set."""


def repository_root(place: Path) -> Path | None:
    """The root of the git repository around a folder; None: there is none, or no git."""
    told = _git(place, "rev-parse", "--show-toplevel")
    return Path(os.fsdecode(told.removesuffix(b"\n"))) if told else None


def record_code(place: Path, sweep: Path) -> dict[str, Any]:
    """The commit of the repository around `place`; what differs from it goes to `code.diff` of the sweep's folder."""
    top = repository_root(place)
    if top is None:
        return {}
    diff = _git(top, "diff", *_AS_IT_IS, "HEAD") or b""
    new = _names(_git(top, "ls-files", "-z", "--others", "--exclude-standard"))
    if diff:
        (sweep / DIFF).write_bytes(diff)
    commit = (_git(top, "rev-parse", "--verify", "--quiet", "HEAD") or b"").decode().strip()
    return {"commit": commit, "changed": bool(diff), "new_files": new}


def copy_code(place: Path, sweep: Path) -> Path:
    """Copy what git knows around `place`, and new files that it does not ignore, submodules too, into a new folder of
    the sweep's: jobs may still run from an older one. Returns the copy of `place`.

    Raises:
        FileNotFoundError: there is no git repository.
    """
    top = repository_root(place)
    if top is None:
        raise FileNotFoundError(
            f"hydra.launcher.snapshot: nothing says what to copy, as {place} is in no git repository"
        )
    target = next(folder for n in count(1) if not (folder := sweep / f"{COPY}-{n}").exists())
    for name in _files(top):
        source = top / name
        if (source.is_file() or source.is_symlink()) and sweep.resolve() not in source.parents:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name, follow_symlinks=False)
    return target / place.resolve().relative_to(top.resolve())


def _files(top: Path) -> Iterator[str]:
    """Those of the repositories inside it too: a submodule is listed as a name, and one that is new as a folder."""
    listed = _names(_git(top, "ls-files", "-z", "--cached", "--others", "--exclude-standard"))
    for name in dict.fromkeys(listed):  # one in conflict is listed several times
        if (top / name / ".git").exists():
            yield from (os.path.join(name, inner) for inner in _files(top / name))
        else:
            yield name


def _git(place: Path, *arguments: str) -> bytes | None:
    try:
        done = subprocess.run(["git", "-C", str(place), *arguments], capture_output=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode == 0 else None


def _names(listed: bytes | None) -> list[str]:
    return [os.fsdecode(name) for name in (listed or b"").split(b"\0") if name]
