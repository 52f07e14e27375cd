"""Whatever happens to a checkpoint's bytes: it is refused with the file named, and no live object has changed."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from solo import Box, alone, bits, header_of
from torch import nn

from dcp_runner import CheckpointCoordinator, CheckpointError, StateComponent
from dcp_runner.checkpoint.digest import BLOCK, hash_bytes
from dcp_runner.checkpoint.files.storage import MANIFEST
from dcp_runner.checkpoint.files.tensor_file import TensorFile

FILES = ["box.safetensors", MANIFEST, "model.safetensors", "twin.safetensors"]


class Run:
    """Three components, saved at step 1; then all of them changed, so that a load would be seen."""

    def __init__(self, folder: Path, **options: Any) -> None:
        torch.manual_seed(0)
        self.model = nn.Linear(2, 1)
        self.boxes = [Box({"n": 1, "t": torch.arange(3.0)}), Box({"n": 2, "t": torch.arange(3.0) + 1})]
        self.components = [
            StateComponent("model", self.model),
            StateComponent("box", self.boxes[0]),
            StateComponent("twin", self.boxes[1]),
        ]
        self.coordinator: CheckpointCoordinator = alone(folder, *self.components, **options)
        self.path = self.coordinator.save(1, {"eval_loss": 1.5})
        nn.init.zeros_(self.model.weight)
        self.boxes[0].state, self.boxes[1].state = {"n": -1}, {"n": -2}
        self.before = self.live()

    def live(self) -> Any:
        return bits([self.model.state_dict(), self.boxes[0].state, self.boxes[1].state])

    def refuses(self, *words: str, kind: str = "IntegrityError", verify: bool = True) -> str:
        """Loading fails with this kind of error and these words, verifying too, and nothing has changed."""
        with pytest.raises(CheckpointError) as failure:
            self.coordinator.load(1)
        text = str(failure.value)
        assert failure.value.types == {kind}, text
        assert all(word in text for word in words), (words, text)
        assert self.live() == self.before
        if verify:
            with pytest.raises(CheckpointError) as failure:
                self.coordinator.verify(self.path)
            assert failure.value.types == {kind} and all(word in str(failure.value) for word in words), str(
                failure.value
            )
        return text


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "checkpoints")


def test_the_undamaged_one_loads_and_verifies(run: Run) -> None:
    assert sorted(path.name for path in run.path.iterdir()) == FILES
    assert run.coordinator.verify(run.path).step == 1
    run.coordinator.load(1)
    assert run.live() != run.before and run.boxes[1].state["n"] == 2


@pytest.mark.parametrize("name", FILES[:3])
def test_every_single_flipped_byte_is_found(name: str, run: Run) -> None:
    file = run.path / name
    original = file.read_bytes()
    begin = 8 + len(header_of(file)) if name.endswith(".safetensors") else len(original)
    for place in range(len(original)):
        flipped = bytearray(original)
        flipped[place] ^= 1 << place % 8
        file.write_bytes(flipped)
        words = [name] if place < begin else [name, "tensor"]
        run.refuses(*words, verify=place % 32 == 0 or place >= begin)
    file.write_bytes(original)
    run.coordinator.load(1)


def test_a_flipped_byte_in_the_data_names_the_tensor_and_the_block(run: Run) -> None:
    file = run.path / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[8 + len(header_of(file)) + json.loads(header_of(file))["weight"]["data_offsets"][0]] ^= 128
    file.write_bytes(data)
    run.refuses("model.safetensors: tensor 'weight', block 0")


def test_in_a_large_tensor_the_block_is_named(tmp_path: Path) -> None:
    coordinator = alone(
        tmp_path, StateComponent("box", Box({"small": torch.ones(1), "large": torch.zeros(BLOCK // 4 + 3)}))
    )
    file = coordinator.save(1) / "box.safetensors"
    data = bytearray(file.read_bytes())
    data[8 + len(header_of(file)) + BLOCK + 2] ^= 4  # the large one comes first
    file.write_bytes(data)
    for refused in (lambda: coordinator.load(1), lambda: coordinator.verify(file.parent)):
        with pytest.raises(CheckpointError, match=r"box\.safetensors: tensor 'large', block 1:"):
            refused()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "change", [lambda data: data[:-1], lambda data: data + b"\0", lambda data: b"", lambda data: data[1:]]
)
def test_another_size_is_found(name: str, change: Callable[[bytes], bytes], run: Run) -> None:
    (run.path / name).write_bytes(change((run.path / name).read_bytes()))
    run.refuses(name)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(name: str, run: Run) -> None:
    (run.path / name).unlink()
    run.refuses(name)


def test_all_missing_and_wrongly_sized_ones_are_named_at_once(run: Run) -> None:
    (run.path / "box.safetensors").unlink()
    (run.path / "twin.safetensors").write_bytes(b"short")
    run.refuses("box.safetensors is missing", "twin.safetensors has 5 bytes")


def test_what_nfs_leaves_of_open_files_does_not_count(run: Run) -> None:
    (run.path / ".nfs0000001").write_bytes(b"x")
    run.coordinator.load(1)
    run.coordinator.verify(run.path)


def test_two_files_of_equal_size_in_each_others_place(run: Run) -> None:
    one, other = run.path / "box.safetensors", run.path / "twin.safetensors"
    first, second = one.read_bytes(), other.read_bytes()
    assert len(first) == len(second)
    one.write_bytes(second)
    other.write_bytes(first)
    run.refuses("box.safetensors")


def test_a_file_of_another_checkpoint(run: Run) -> None:
    run.boxes[0].state = {"n": 3, "t": torch.zeros(3)}
    other = run.coordinator.save(2)
    assert (other / "box.safetensors").stat().st_size == (run.path / "box.safetensors").stat().st_size
    run.boxes[0].state = {"n": -1}
    shutil.copy(other / "box.safetensors", run.path / "box.safetensors")
    run.refuses("box.safetensors")


def test_the_manifest_or_the_folder_of_another_step(run: Run) -> None:
    other = run.coordinator.save(2)
    other.rename(run.path.with_name("aside"))
    run.path.rename(other)
    run.path.with_name("aside").rename(run.path)
    run.refuses("checkpoint-1: its manifest is that of step 2")
    assert run.coordinator.list() == {} and list(run.coordinator.steps()) == [1, 2]


def as_link(run: Run, name: str) -> None:
    shutil.move(run.path / name, run.path.parent / "aside")
    (run.path / name).symlink_to(run.path.parent / "aside")


def as_folder_elsewhere(run: Run) -> None:
    """The folder of a listed file becomes a link."""
    (run.path / "deep").mkdir()
    (run.path / "box.safetensors").rename(run.path / "deep" / "box.safetensors")

    def change(plain: dict[str, Any]) -> None:
        plain["files"]["deep/box.safetensors"] = plain["files"].pop("box.safetensors")
        plain["components"]["box"]["copies"]["all"].update(files=["deep/box.safetensors"])

    forge(run.path, change)
    run.coordinator.verify(run.path)
    as_link(run, "deep")


def as_pipe(run: Run, name: str) -> None:
    (run.path / name).unlink()
    os.mkfifo(run.path / name)


LINKS: dict[str, tuple[Callable[[Run], object], str]] = {
    "to a file": (lambda run: as_link(run, "model.safetensors"), "model.safetensors"),
    "to the manifest": (lambda run: as_link(run, MANIFEST), MANIFEST),
    "to a folder of ours": (as_folder_elsewhere, "deep"),
    "a pipe": (lambda run: as_pipe(run, "model.safetensors"), "model.safetensors"),
    "a pipe as the manifest": (lambda run: as_pipe(run, MANIFEST), MANIFEST),
}


@pytest.mark.parametrize("kind", LINKS)
def test_a_link_or_special_file_in_the_place_of_ours_is_not_followed(kind: str, run: Run) -> None:
    make, name = LINKS[kind]
    make(run)
    run.refuses(f"{name}: is a link or a special file")


def test_a_folder_in_the_place_of_a_file_is_damage(run: Run) -> None:
    for name in ("model.safetensors", MANIFEST):
        (run.path / name).unlink()
        (run.path / name).mkdir()
        run.refuses(name)


# -- forged, with a right digest ---------------------------------------------------------------------------------------


def forge(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a manifest, and give it the digest that fits."""
    plain = json.loads((path / MANIFEST).read_text())
    change(plain)
    plain["digest"] = "0" * 32
    text = json.dumps(plain, indent=2).encode() + b"\n"
    (path / MANIFEST).write_bytes(text.replace(b"0" * 32, hash_bytes(text).encode(), 1))


def test_a_forgery_with_a_right_digest_is_believed(run: Run) -> None:
    """So that the tests below are refused for their own reasons."""
    forge(run.path, lambda plain: plain.update(attempt="forged"))
    assert run.coordinator.load(1).manifest.attempt == "forged"


@pytest.mark.parametrize("name", ["../outside.safetensors", "a/../../outside", "{tmp}/outside.safetensors", ".."])
def test_a_name_that_leads_out_is_refused(name: str, run: Run, tmp_path: Path) -> None:
    name = name.format(tmp=tmp_path)
    shutil.copy(run.path / "box.safetensors", run.path.parent / "outside.safetensors")
    forge(run.path, lambda plain: plain["files"].update({name: plain["files"].pop("box.safetensors")}))
    run.refuses("file name", "leads out of the checkpoint", MANIFEST)


@pytest.mark.parametrize("name", ["../outside.safetensors", "nowhere.safetensors", MANIFEST])
def test_a_component_takes_no_file_that_the_list_lacks(name: str, run: Run) -> None:
    shutil.copy(run.path / "box.safetensors", run.path.parent / "outside.safetensors")
    forge(run.path, lambda plain: plain["components"]["box"]["copies"]["all"].update(files=[name]))
    run.refuses(name, "is not in its list of files")


def test_a_newer_format_says_so(run: Run) -> None:
    forge(run.path, lambda plain: plain.update(format=2, files="of another kind"))
    run.refuses("format 2 is newer than this version's 1", MANIFEST, kind="NewerFormatError")


def test_a_newer_file_says_so(run: Run) -> None:
    file = run.path / "box.safetensors"
    header = header_of(file).replace(rb"\"format\":1", rb"\"format\":2")
    file.write_bytes(file.read_bytes().replace(header_of(file), header))
    forge(
        run.path,
        lambda plain: plain["files"]["box.safetensors"].update(digest=hash_bytes(file.read_bytes()[: 8 + len(header)])),
    )
    run.refuses("box.safetensors: format 2 is newer than this version's 1", kind="NewerFormatError")


def test_a_wrong_digest_of_a_file_is_found(run: Run) -> None:
    forge(run.path, lambda plain: plain["files"]["twin.safetensors"].update(digest="f" * 32))
    run.refuses("twin.safetensors")


class Bomb:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def listed(data: bytes) -> dict[str, Any]:
    return {"size": len(data), "digest": hash_bytes(data)}


PICKLES: dict[str, tuple[str, Callable[[Run, bytes], object]]] = {
    "in place of a file": ("model.safetensors", lambda run, data: None),
    "in place of a file and listed": (
        "model.safetensors",
        lambda run, data: forge(run.path, lambda plain: plain["files"].update({"model.safetensors": listed(data)})),
    ),
    "in place of a file, with the digest of what would be its header": (
        "model.safetensors",
        lambda run, data: forge(
            run.path,
            lambda plain: plain["files"].update({"model.safetensors": listed(data) | {"digest": hash_bytes(data[:8])}}),
        ),
    ),
    "in place of the manifest": (MANIFEST, lambda run, data: None),
    "as the file of a component": (
        "box.pkl",
        lambda run, data: forge(
            run.path,
            lambda plain: (
                plain["files"].update({"box.pkl": listed(data)}),
                plain["components"]["box"]["copies"]["all"].update(files=["box.pkl"]),
            ),
        ),
    ),
}


@pytest.mark.parametrize("kind", PICKLES)
def test_a_pickle_is_refused_and_never_run(kind: str, run: Run, tmp_path: Path) -> None:
    mark = tmp_path / "bang"
    data = pickle.dumps(Bomb(mark))
    pickle.loads(data)
    assert mark.exists(), "the bomb works"
    mark.unlink()
    name, arrange = PICKLES[kind]
    (run.path / name).write_bytes(data)
    arrange(run, data)
    with pytest.raises(CheckpointError):
        run.coordinator.load(1)
    with contextlib.suppress(CheckpointError):
        run.coordinator.verify(run.path)
    assert not mark.exists() and run.live() == run.before


def test_a_listed_pickle_that_no_component_names_is_only_counted(run: Run, tmp_path: Path) -> None:
    data = pickle.dumps(Bomb(tmp_path / "bang"))
    (run.path / "notes.pkl").write_bytes(data)
    forge(run.path, lambda plain: plain["files"].update({"notes.pkl": listed(data)}))
    run.coordinator.load(1)
    run.coordinator.verify(run.path)
    assert not (tmp_path / "bang").exists()
    (run.path / "notes.pkl").write_bytes(bytes(len(data)))
    with pytest.raises(CheckpointError, match=r"notes\.pkl: the bytes have changed"):
        run.coordinator.verify(run.path)


# -- how much is checked -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("check", "found"), [("all", True), ("read", False)])
def test_files_that_are_not_read_are_checked_all_the_same_unless_told_otherwise(
    check: str, found: bool, tmp_path: Path
) -> None:
    run = Run(tmp_path, check=check)
    file = run.path / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    if found:
        with pytest.raises(CheckpointError, match=r"model\.safetensors"):
            run.coordinator.load(1, skip=["model"])
        assert run.live() == run.before
    else:
        run.coordinator.load(1, skip=["model"])
        assert run.boxes[0].state["n"] == 1
        run.before = run.live()
    run.refuses("model.safetensors", "tensor")


def test_a_checkpoint_can_be_moved_and_copied(run: Run, tmp_path: Path) -> None:
    copied = shutil.copytree(run.path, tmp_path / "elsewhere")
    shutil.rmtree(run.path)
    run.coordinator.verify(copied)
    assert run.coordinator.load(copied).path == copied
    assert run.boxes[1].state["n"] == 2


def test_a_tensor_that_ends_early_is_named_by_the_reader_itself(tmp_path: Path) -> None:
    """Should a file shrink after the list of files was checked."""
    coordinator = alone(tmp_path, StateComponent("box", Box({"t": torch.ones(20_000)})))
    record = coordinator.verify(coordinator.save(1)).files["box.safetensors"]
    path = tmp_path / "checkpoint-1" / "box.safetensors"
    with TensorFile(path, "box.safetensors", size=record.size, digest=record.digest) as file:
        os.truncate(path, record.size - 1)
        for read in (file.check, lambda: file.read("t", 0, memoryview(bytearray(80_000)))):
            with pytest.raises(ValueError, match=r"box.safetensors: ends inside tensor 't'"):
                read()
