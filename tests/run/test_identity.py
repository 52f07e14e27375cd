"""A run folder and the folder of its checkpoints are of one run; those of another one are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dcp_runner.checkpoint.errors import ForeignError
from dcp_runner.checkpoint.files.ownership import Identity
from dcp_runner.common.run_context import RunContext
from dcp_runner.common.run_dir import RunDir
from dcp_runner.run.identity import resolve_identity, write_identity

ROOT = Path("/somewhere/checkpoints")
JOB0, JOB1 = "abcd/0", "abcd/1"


def start(folder: Path, mine: Identity | None = None, **more: Any) -> RunContext:
    """A start in a run folder that belongs to `mine` already, or to no run."""
    folder.mkdir(exist_ok=True)
    if mine:
        write_identity(folder, mine)
    return RunContext(folder, 1, 0, 1, 0, 1, "hash", {}, **more)


def test_a_new_run_gets_a_random_id(tmp_path: Path) -> None:
    one, other = (resolve_identity(start(tmp_path / name, sweep=JOB0), ROOT, Identity()) for name in ("a", "b"))
    assert len({one.run, other.run}) == 2 and len(one.run) == 32
    assert (one.sweep, one.folder) == (JOB0, str(tmp_path / "a"))


@pytest.mark.parametrize(
    ("mine", "theirs", "more"),
    [
        pytest.param(Identity("x"), Identity("x"), {}, id="the same"),
        pytest.param(Identity("x", JOB0), Identity("x", JOB0), {"sweep": JOB0}, id="the same job again"),
        pytest.param(Identity("x", JOB0), Identity("x", JOB0), {}, id="a single run goes on with a job"),
        pytest.param(Identity("x"), Identity(), {}, id="checkpoints without an id are adopted"),
        pytest.param(Identity("x"), Identity("", "", "/lib"), {"sweep": JOB0}, id="those of a library too"),
        pytest.param(None, Identity("x"), {"dated": True}, id="a dated folder with fixed checkpoints"),
        pytest.param(None, Identity("x", "", "{here}"), {}, id="a run folder that was removed"),
        pytest.param(None, Identity("x", JOB0), {"sweep": JOB0}, id="a job whose folder was removed"),
        pytest.param(Identity("x", "", "/old"), Identity("x", "", "/old"), {}, id="moved or copied together"),
    ],
)
def test_one_run(mine: Identity | None, theirs: Identity, more: dict[str, Any], tmp_path: Path) -> None:
    here = str(tmp_path / "run")
    theirs = Identity(theirs.run, theirs.sweep, theirs.folder.replace("{here}", here))
    found = resolve_identity(start(tmp_path / "run", mine, **more), ROOT, theirs)
    assert (found.run, found.folder) == ("x", here)
    assert found.sweep == (more.get("sweep") or (mine.sweep if mine else ""))


@pytest.mark.parametrize(
    ("mine", "theirs", "more"),
    [
        pytest.param(Identity("x"), Identity("y"), {}, id="two runs"),
        pytest.param(None, Identity("y", "", "/b"), {}, id="a new name"),
        pytest.param(None, Identity("y", JOB0), {"sweep": JOB1}, id="another job"),
        pytest.param(None, Identity("y", "efgh/0"), {"sweep": JOB0}, id="another sweep"),
        pytest.param(None, Identity("y", JOB0), {"dated": True}, id="a single run and a job's checkpoints"),
        pytest.param(None, Identity("y"), {"sweep": JOB0}, id="a job and a single run's checkpoints"),
        pytest.param(Identity("x", JOB0), Identity("x", JOB0), {"sweep": JOB1}, id="two jobs, one run folder"),
        pytest.param(
            Identity("x", JOB0), Identity(), {"sweep": JOB1}, id="two jobs, one run folder, other checkpoints"
        ),
    ],
)
def test_two_runs(mine: Identity | None, theirs: Identity, more: dict[str, Any], tmp_path: Path) -> None:
    run = start(tmp_path / "run", mine, **more)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ForeignError) as refused:
        resolve_identity(run, ROOT, theirs)
    assert str(tmp_path / "run") in str(refused.value) and "resume=" in str(refused.value)
    assert ("checkpoint.root=" if str(ROOT) in str(refused.value) else "name=") in str(refused.value), "the remedies"
    assert sorted(tmp_path.rglob("*")) == before


def test_it_is_kept_in_the_run_folder(tmp_path: Path) -> None:
    one = Identity("x", JOB0, str(tmp_path))
    write_identity(tmp_path, one)
    assert json.loads((RunDir(tmp_path).identity_file).read_text()) == {
        "run": "x",
        "sweep": JOB0,
        "folder": str(tmp_path),
    }
    assert [path.name for path in tmp_path.iterdir()] == [".run.json"]
    (RunDir(tmp_path).identity_file).write_text('{"run": ')  # a power failure
    assert resolve_identity(start(tmp_path, sweep=JOB0), ROOT, one) == one
