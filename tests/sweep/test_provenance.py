"""Which code a sweep ran, from real git repositories."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from dcp_runner.sweep.provenance import copy_code, record_code, repository_root


def git(place: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", place, *arguments], capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a sweep, in no repository, and with a git that is not configured."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    (tmp_path / "gitconfig").write_text("[user]\nname = a\nemail = a@b\n")
    (tmp_path / "sweep").mkdir()
    return tmp_path / "sweep"


@pytest.fixture
def repository(folder: Path) -> Path:
    """One with a commit, and nothing that differs from it."""
    top = folder.parent / "repository"
    write(top, {"train.py": "print(1)\n", "package/conf/a.yaml": "a: 1\n", ".gitignore": "*.pyc\nruns/\n"})
    git(folder, "init", "--quiet", str(top))
    commit(top)
    return top


def write(top: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(text)


def commit(top: Path) -> None:
    git(top, "add", "--all")
    git(top, "commit", "--quiet", "--message=one")


def files_in(place: Path) -> list[str]:
    found = (path for path in place.rglob("*") if path.is_symlink() or not path.is_dir())
    return sorted(path.relative_to(place).as_posix() for path in found)


def applied(repository: Path, sweep: Path) -> Path:
    """A clone with the recorded commit and what differs from it."""
    again = sweep / "again"
    git(sweep, "clone", "--quiet", str(repository), str(again))
    git(again, "apply", str(sweep / "code.diff"))
    return again


def test_a_commit_without_changes(folder: Path, repository: Path) -> None:
    expected = {"commit": git(repository, "rev-parse", "HEAD"), "changed": False, "new_files": []}
    assert record_code(repository, folder) == expected
    assert record_code(repository / "package/conf", folder) == expected
    assert files_in(folder) == []


def test_what_differs_from_the_commit_can_be_had_again(folder: Path, repository: Path) -> None:
    write(repository, {"train.py": "print(2)\n", "new.py": "", "package/staged.py": "3\n", "a.pyc": "", "runs/1": ""})
    (repository / "weights.bin").write_bytes(bytes(range(256)))
    git(repository, "add", "package/staged.py", "weights.bin")
    (repository / "package/conf/a.yaml").unlink()
    recorded = record_code(repository / "package", folder)
    assert (recorded["changed"], recorded["new_files"]) == (True, ["new.py"])
    again = applied(repository, folder)
    assert (again / "train.py").read_text() == "print(2)\n"
    assert (again / "package/staged.py").read_text() == "3\n"
    assert (again / "weights.bin").read_bytes() == bytes(range(256))
    assert not (again / "package/conf/a.yaml").exists()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("print('ä')\n".encode(), "print('ö')\n".encode()),
        pytest.param(b"print('\xe4')\n", b"print('\xf6')\n"),
        pytest.param(b"a\r\nb\r\n", b"a\r\nc\r\n"),
    ],
    ids=["UTF-8", "Latin-1", "lines of Windows"],
)
def test_a_diff_keeps_every_byte(folder: Path, repository: Path, before: bytes, after: bytes) -> None:
    (repository / "encoded.py").write_bytes(before)
    commit(repository)
    (repository / "encoded.py").write_bytes(after)
    record_code(repository, folder)
    assert (applied(repository, folder) / "encoded.py").read_bytes() == after


@pytest.mark.parametrize(
    "setting",
    [
        "[diff]\nexternal = false\n",
        "[color]\nui = always\n",
        "[diff]\nnoprefix = true\n",
    ],
    ids=["another program", "colours", "other names"],
)
def test_a_diff_does_not_depend_on_somebodys_settings(folder: Path, repository: Path, setting: str) -> None:
    write(repository, {"train.py": "print(2)\n"})
    with (folder.parent / "gitconfig").open("a") as settings:
        settings.write(setting)
    assert record_code(repository, folder)["changed"]
    assert (applied(repository, folder) / "train.py").read_text() == "print(2)\n"


def test_new_files_have_their_names(folder: Path, repository: Path) -> None:
    write(repository, {"mit ümlaut.py": ""})
    assert record_code(repository, folder)["new_files"] == ["mit ümlaut.py"]


def test_a_repository_without_a_commit(folder: Path) -> None:
    git(folder, "init", "--quiet", str(folder.parent / "empty"))
    write(folder.parent / "empty", {"a.py": ""})
    assert record_code(folder.parent / "empty", folder) == {"commit": "", "changed": False, "new_files": ["a.py"]}


def test_no_repository(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert repository_root(folder.parent) is None
    assert record_code(folder.parent, folder) == {}
    with pytest.raises(FileNotFoundError, match=f"{folder.parent} is in no git repository"):
        copy_code(folder.parent, folder)
    assert files_in(folder) == []


def test_no_git(folder: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(folder))
    assert record_code(repository, folder) == {}


def test_a_copy_has_what_git_does_not_ignore(folder: Path, repository: Path) -> None:
    write(repository, {"train.py": "print(2)\n", "new ü.py": "", "a.pyc": "", "runs/1": "", "gone.py": "", "run": ""})
    git(repository, "add", "gone.py")
    (repository / "gone.py").unlink()
    (repository / "run").chmod(0o755)
    assert copy_code(repository, folder) == folder / "code-1"
    assert files_in(folder / "code-1") == [".gitignore", "new ü.py", "package/conf/a.yaml", "run", "train.py"]
    assert (folder / "code-1/train.py").read_text() == "print(2)\n"
    assert os.access(folder / "code-1/run", os.X_OK)


@pytest.mark.parametrize("place", [".", "package", "package/conf"])
def test_the_copy_of_a_place_is_told(folder: Path, repository: Path, place: str) -> None:
    assert copy_code(repository / place, folder) == folder / "code-1" / place
    assert (folder / "code-1/train.py").exists()


def test_a_place_may_be_reached_by_a_link(folder: Path, repository: Path) -> None:
    link = folder.parent / "link"
    link.symlink_to(repository / "package")
    assert copy_code(link, folder) == folder / "code-1/package"


LINKS = {"conf": "package/conf", "main.py": "train.py", "nowhere": "none"}


def test_a_copy_has_the_repositories_inside(folder: Path, repository: Path) -> None:
    """A submodule, changed since, with one of its own; and a repository that was put there."""
    other, inner = folder.parent / "other", folder.parent / "inner"
    for top in (inner, other):
        git(folder, "init", "--quiet", str(top))
        write(top, {f"{top.name}.py": "1", ".gitignore": "*.log\n"})
        commit(top)
    git(other, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(inner), "deep")
    commit(other)
    git(repository, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(other), "sub")
    git(repository / "sub", "-c", "protocol.file.allow=always", "submodule", "--quiet", "update", "--init")
    commit(repository)
    write(repository / "sub", {"other.py": "2", "new.py": "", "noise.log": ""})
    git(repository, "clone", "--quiet", str(inner), "put")
    copied = copy_code(repository, folder)
    assert {"sub/other.py", "sub/new.py", "sub/deep/inner.py", "put/inner.py"} <= set(files_in(copied))
    assert (copied / "sub/other.py").read_text() == "2"
    assert not list(copied.rglob(".git")) and not (copied / "sub/noise.log").exists()


def test_links_stay_links(folder: Path, repository: Path) -> None:
    for name, target in LINKS.items():
        (repository / name).symlink_to(target)
    commit(repository)
    copy = copy_code(repository, folder)
    assert {name: os.readlink(copy / name) for name in LINKS} == LINKS
    assert (copy / "conf/a.yaml").read_text() == "a: 1\n"


def test_a_sweep_inside_the_repository_does_not_copy_its_copy(folder: Path, repository: Path) -> None:
    sweep = repository / "sweeps/1"
    sweep.mkdir(parents=True)
    for _ in range(2):
        copy_code(repository, sweep)
    assert files_in(sweep / "code-2") == [".gitignore", "package/conf/a.yaml", "train.py"]


def test_a_sweep_that_goes_on_copies_once_more(folder: Path, repository: Path) -> None:
    for name, target in LINKS.items():
        (repository / name).symlink_to(target)
    commit(repository)
    copy_code(repository, folder)
    write(repository, {"train.py": "print(3)\n"})
    assert (copy_code(repository, folder) / "train.py").read_text() == "print(3)\n"


def test_a_new_copy_has_no_file_of_the_old_one(folder: Path, repository: Path) -> None:
    copy_code(repository, folder)
    (repository / "train.py").unlink()
    assert not (copy_code(repository, folder) / "train.py").exists()
