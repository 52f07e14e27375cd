"""Which code a sweep runs: the git commit and the diff against it; on request, a copy to run from."""

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
"""Independent of the user's git configuration."""


def repository_root(folder: Path) -> Path | None:
    """The root of the git repository around a folder; None: there is none, or no git."""
    printed = _git(folder, "rev-parse", "--show-toplevel")
    return Path(os.fsdecode(printed.removesuffix(b"\n"))) if printed else None


def record_code(folder: Path, sweep: Path) -> dict[str, Any]:
    """The commit of the repository around `folder`; the diff against it goes to `code.diff` in the sweep folder."""
    top = repository_root(folder)
    if top is None:
        return {}
    diff = _git(top, "diff", *_AS_IT_IS, "HEAD") or b""
    new = _names(_git(top, "ls-files", "-z", "--others", "--exclude-standard"))
    if diff:
        (sweep / DIFF).write_bytes(diff)
    commit = (_git(top, "rev-parse", "--verify", "--quiet", "HEAD") or b"").decode().strip()
    return {"commit": commit, "changed": bool(diff), "new_files": new}


def copy_code(folder: Path, sweep: Path) -> Path:
    """Copy the tracked files around `folder`, and untracked ones that git does not ignore, including submodules, into
    a new folder of the sweep: jobs may still run from an older copy. Returns the copy of `folder`.

    Raises:
        FileNotFoundError: there is no git repository.
    """
    top = repository_root(folder)
    if top is None:
        raise FileNotFoundError(
            f"hydra.launcher.snapshot=true copies the files that git tracks, but {folder} is in no git repository"
        )
    target = next(path for n in count(1) if not (path := sweep / f"{COPY}-{n}").exists())
    for name in _files(top):
        source = top / name
        if (source.is_file() or source.is_symlink()) and sweep.resolve() not in source.parents:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name, follow_symlinks=False)
    return target / folder.resolve().relative_to(top.resolve())


def _files(top: Path) -> Iterator[str]:
    """Including nested repositories, of which git lists a submodule as a name and an untracked one as a folder."""
    listed = _names(_git(top, "ls-files", "-z", "--cached", "--others", "--exclude-standard"))
    for name in dict.fromkeys(listed):  # a file in conflict is listed several times
        if (top / name / ".git").exists():
            yield from (os.path.join(name, inner) for inner in _files(top / name))
        else:
            yield name


def _git(folder: Path, *arguments: str) -> bytes | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode == 0 else None


def _names(listed: bytes | None) -> list[str]:
    return [os.fsdecode(name) for name in (listed or b"").split(b"\0") if name]
