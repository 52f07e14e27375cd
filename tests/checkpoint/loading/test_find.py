"""The ranks find a checkpoint together, and say the same where it is damaged or has been deleted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from few_ranks import among
from solo import boxed

from dcp_runner.checkpoint.errors import CheckpointError, IntegrityError
from dcp_runner.checkpoint.files.storage import Storage
from dcp_runner.checkpoint.loading.find import found_checkpoint, verify_checkpoint
from dcp_runner.checkpoint.loading.request import LoadRequest
from dcp_runner.checkpoint.sync.comm import Comm


@pytest.fixture
def root(tmp_path: Path) -> Path:
    _, coordinator = boxed(tmp_path, {"t": torch.ones(3)})
    for step in (1, 2):
        coordinator.save(step)
    return tmp_path


def test_all_ranks_find_the_same(root: Path) -> None:
    def work(comm: Comm) -> Any:
        with found_checkpoint(comm, Storage(root), LoadRequest("latest")) as (folder, manifest, unlisted):
            return folder, manifest.step, list(unlisted)

    assert among(2, work) == [(root / "checkpoint-2", 2, [])] * 2


@pytest.mark.parametrize("deleted", [False, True])
def test_what_a_rank_finds_out_later_is_damage_unless_rank_0_sees_that_it_is_deleted(deleted: bool, root: Path) -> None:
    def work(comm: Comm) -> Any:
        def read() -> None:
            if comm.rank == 1:
                if deleted:
                    Storage(root).discard(root / "checkpoint-2")
                raise IntegrityError("box.safetensors: is missing")

        with found_checkpoint(comm, Storage(root), LoadRequest("latest")):
            comm.agree("read", read)

    first, second = among(2, work)
    assert isinstance(first, CheckpointError) and str(first) == str(second)
    if deleted:
        assert first.types == {"MissingCheckpointError"} and "was deleted while it was being read" in str(first)
    else:
        assert first.types == {"IntegrityError"} and "the next valid one is checkpoint-1" in str(first)


def test_an_error_of_the_ranks_own_stays_as_it_is(root: Path) -> None:
    def work(comm: Comm) -> Any:
        with found_checkpoint(comm, Storage(root), LoadRequest(2)):
            comm.agree("compare", lambda: {}["missing"])

    assert [error.types for error in among(2, work)] == [{"KeyError"}] * 2


def test_a_verification_is_divided_among_the_ranks(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = root / "checkpoint-2"
    (folder / "box.safetensors").write_bytes((folder / "box.safetensors").read_bytes()[:-1] + b"\0")
    (folder / "unlisted").touch()
    errors = among(2, lambda comm: verify_checkpoint(comm, folder))
    assert str(errors[0]) == str(errors[1])
    assert {(failure.rank, failure.message.split(":")[0].split(" ")[0]) for failure in errors[0].failures} == {
        (0, "box.safetensors"),
        (1, "unlisted"),
    }
