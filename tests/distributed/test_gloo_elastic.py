"""A checkpoint of any topology loads under any other, bit for bit."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from gloo_ranks import Ended, Rank, caught, run
from gloo_topologies import TOPOLOGIES, Live, build, meshes, topology_of, trained, whole
from safetensors import safe_open
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from dcp_runner.checkpoint.component import StateComponent
from dcp_runner.checkpoint.coordinator import CheckpointCoordinator
from dcp_runner.checkpoint.files.tensor_file import TensorFile
from dcp_runner.checkpoint.loading.tensor_reader import BUCKET
from dcp_runner.checkpoint.topology import Topology

pytestmark = pytest.mark.timeout(180)
NAMES = list(TOPOLOGIES)


def coordinator_of(live: Live, folder: Path, comm: Any) -> CheckpointCoordinator:
    components = [StateComponent("model", live.model), StateComponent("optimizer", live.optimizer)]
    return CheckpointCoordinator(components, live.topology, folder, comm=comm)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return type(one) is type(other) and one == other


def made_again(root: Path, rank: Rank, pairs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Save under the first topology of each pair, load under the second; what differs from what was saved."""
    mesh_of = meshes(NAMES)
    reference = trained()
    expected = whole(reference)
    if rank.number == 0:
        coordinator_of(reference, root / "source", rank.comm("source", 1)).save(1)
    rank.meet_again("source")
    for saved in dict.fromkeys(saved for saved, _ in pairs):
        live, comm = here(saved, mesh_of, rank, f"save {saved}")
        if live:
            coordinator = coordinator_of(live, root / saved, comm)
            coordinator.load(root / "source" / "checkpoint-1")
            coordinator.save(2)
    rank.meet_again("saved")
    told: dict[tuple[str, str], str] = {}
    for saved, loaded in pairs:
        live, comm = here(loaded, mesh_of, rank, f"{saved} to {loaded}")
        if live:
            report = coordinator_of(live, root / loaded, comm).load(root / saved / "checkpoint-2")
            DONE[saved, loaded] = report.rows[0].action
            found = whole(live)
            names = set(expected) if "pp" in TOPOLOGIES[loaded] else set(found)
            wrong = [name for name in found if not same(found[name], expected[name])]
            told[saved, loaded] = ", ".join([*wrong, *(set(expected) - names)])
    return told


DONE: dict[tuple[str, str], str] = {}
"""What a load has told of the model; on a rank."""


def here(name: str, mesh_of: Any, rank: Rank, talk: str) -> tuple[Live | None, Any]:
    """Fresh objects under the topology, with weights of no checkpoint, and a Comm; nothing on ranks that it lacks."""
    size = topology_of(name).world_size
    if rank.number >= size:
        return None, None
    return build(name, mesh_of.get(name), rank.number, seed=len(talk)), rank.comm(talk, size)


def on_eight(
    root: Path, pairs: Sequence[tuple[str, str]]
) -> tuple[dict[tuple[str, str], str], dict[tuple[str, str], str]]:
    """What differs on any rank after each pair's load, and what the load has told; an untold pair is missing."""

    def body(rank: Rank) -> Any:
        with rank.process_group():
            return made_again(root, rank, pairs), DONE

    everyone = run(body, 8, limit_s=280)
    return {pair: "".join(told.get(pair, "") for told, _ in everyone) for pair in everyone[0][0]}, everyone[0][1]


FEW = [
    ("fsdp 4", "dp_pp_tp 2x2x2"),
    ("hsdp 2x2", "pipeline 4"),
    ("dp_pp 2x2", "fsdp_tp 2x2"),
]


def test_a_checkpoint_of_one_topology_loads_under_another(tmp_path: Path) -> None:
    """What they save they have from a checkpoint of single."""
    assert on_eight(tmp_path, FEW)[0] == dict.fromkeys(FEW, "")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_checkpoint_of_any_topology_loads_under_any_other(tmp_path: Path) -> None:
    """docs/matrix.md shows the outcome; with the variable WRITE_DOCS it is written anew."""
    pairs = [(saved, loaded) for saved in NAMES for loaded in NAMES]
    different, done = on_eight(tmp_path, pairs)
    assert different == dict.fromkeys(pairs, "")
    text = matrix(done)
    page = Path(__file__).parents[2] / "docs" / "matrix.md"
    if "WRITE_DOCS" in os.environ:
        page.write_text(text)
    assert page.read_text() == text


def matrix(done: dict[tuple[str, str], str]) -> str:
    """The table of what was done to the model."""
    lines = [
        "# A checkpoint of any topology under any other",
        "",
        "Made by `tests/distributed/test_gloo_elastic.py` on real process groups. Each pair was saved under the topology of its row and",
        "loaded under that of its column; all weights, buffers and the whole state of AdamW, gathered, were equal to the saved ones bit",
        "for bit. `=` means that each rank read its own copy, `a>b` that a copies were re-cut to b.",
        "",
        "| saved \\ loaded | " + " | ".join(NAMES) + " |",
        "|---|" + "---|" * len(NAMES),
    ]
    for saved in NAMES:
        lines.append(f"| **{saved}** | " + " | ".join(short(done[saved, loaded]) for loaded in NAMES) + " |")
    return "\n".join(lines) + "\n"


def short(action: str) -> str:
    words = action.split()
    return "=" if action == "loaded" else f"{words[2]}>{words[4]}"


class Kept:
    """Somebody's own Stateful that holds the model's tensors as they are."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.state = dict(model.state_dict())

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = state


def own(model: torch.nn.Module, name: str) -> torch.Tensor:
    """This rank's memory of a parameter."""
    parameter = dict(model.named_parameters())[name].data
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Ended]]:
    """How some saves and loads that are not quite right ended, on the ranks that took part."""
    root = tmp_path_factory.mktemp("apart")

    def changed(topology: str, tensor: str, rank: Rank, mesh_of: Any, odd: int) -> Any:
        live, comm = here(topology, mesh_of, rank, f"changed {topology} {tensor} {odd}")
        if live and rank.number == odd:
            own(live.model, tensor).view(-1)[-1] += 1
        return live and coordinator_of(live, root / comm_name(topology, tensor, odd), comm).save(1)

    def declared(topology: str, sharing: str, rank: Rank, mesh_of: Any, keep: bool = False) -> Any:
        live, comm = here(topology, mesh_of, rank, f"declared {topology} {sharing} {keep}")
        if live:
            stateful: Any = Kept(live.model) if keep else live.model
            parts = [StateComponent("model", stateful, sharing)]
            return CheckpointCoordinator(parts, live.topology, root / "declared", comm=comm).save(1)
        return None

    def independent(rank: Rank, policy: Any) -> Any:
        """Two models that have nothing to do with each other, loaded into one."""
        if rank.number < 2:
            model, folder = torch.nn.Linear(2, 2), root / f"independent {policy}"
            torch.nn.init.constant_(model.weight, rank.number)
            part = StateComponent("model", model, "per_rank", on_missing_copy=policy)
            comm = rank.comm(f"two {policy}", 2)
            CheckpointCoordinator([part], Topology(2), folder, comm=comm).save(1)
            if rank.number == 0:
                torch.nn.init.constant_(model.weight, 9)
                part = StateComponent("model", model, "replicated", on_missing_copy=policy)
                CheckpointCoordinator([part], Topology(1), folder, comm=rank.comm(f"one {policy}", 1)).load(1)
                return float(model.weight.detach().sum())
        return None

    def names_by_file(rank: Rank, mesh_of: Any) -> Any:
        live, comm = here("fsdp_tp 2x2", mesh_of, rank, "names")
        assert live
        path = coordinator_of(live, root / "names", comm).save(1)
        with safe_open(path / "model" / f"rank-{rank.number:05d}.safetensors", "pt") as file:
            return sorted(file.keys())

    def opened(rank: Rank, mesh_of: Any) -> Any:
        live, comm = here("fsdp 4", mesh_of, rank, "opened")
        assert live
        coordinator = coordinator_of(live, root / "opened", comm)
        coordinator.save(1)
        names: list[str] = []
        with pytest.MonkeyPatch.context() as patch:
            init = TensorFile.__init__
            patch.setattr(
                TensorFile,
                "__init__",
                lambda self, path, name, **k: (names.append(name), init(self, path, name, **k))[1],
            )
            coordinator.load(1)
        return sorted(names)

    def damaged(rank: Rank, mesh_of: Any) -> Any:
        live, comm = here("fsdp 4", mesh_of, rank, "damaged")
        assert live
        coordinator = coordinator_of(live, root / "damaged", comm)
        path = coordinator.save(1) / "model" / "rank-00002.safetensors"
        if rank.number == 0:
            path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1]))
        return coordinator.load(1)

    cases: dict[str, Any] = {
        "norm tp": lambda rank, m: changed("tp 2", "blocks.1.norm.weight", rank, m, 1),
        "cut tp": lambda rank, m: changed("tp 2", "blocks.1.grow.weight", rank, m, 1),
        "norm dp_tp": lambda rank, m: changed("dp_tp 2x2", "blocks.1.norm.weight", rank, m, 2),
        "cut dp_tp": lambda rank, m: changed("dp_tp 2x2", "blocks.1.grow.weight", rank, m, 2),
        "hsdp": lambda rank, m: changed("hsdp 2x2", "first.weight", rank, m, 3),
        "fsdp": lambda rank, m: changed("fsdp 4", "first.weight", rank, m, 2),
        "pipeline": lambda rank, m: changed("dp_pp 2x2", "last.bias", rank, m, 3),
        "fsdp replicated": lambda rank, m: declared("fsdp 4", "replicated", rank, m),
        "stages replicated": lambda rank, m: declared("pipeline 2", "replicated", rank, m),
        "stages per_group:pp": lambda rank, m: declared("dp_pp 2x2", "per_group:pp", rank, m),
        "kept replicated": lambda rank, m: declared("fsdp 2", "replicated", rank, m, keep=True),
        "kept per_rank": lambda rank, m: declared("fsdp 2", "per_rank", rank, m, keep=True),
        "independent error": lambda rank, m: independent(rank, "error"),
        "independent first": lambda rank, m: independent(rank, "first"),
        "names": names_by_file,
        "opened": opened,
        "damaged": damaged,
    }

    def body(rank: Rank) -> dict[str, Ended]:
        with rank.process_group():
            mesh_of = meshes({name for name in NAMES if topology_of(name).world_size <= 4})
            return {name: caught(lambda case=case: case(rank, mesh_of)) for name, case in cases.items()}

    everyone = run(body, 4, limit_s=20)
    return {name: [told[name] for told in everyone] for name in cases}


def comm_name(*parts: Any) -> str:
    return "-".join(str(part) for part in parts)


@pytest.mark.parametrize(
    ("name", "tensor", "holders"),
    [
        ("norm tp", "blocks.1.norm.weight", "0-1"),
        ("norm dp_tp", "blocks.1.norm.weight", "0-3"),
        ("cut dp_tp", "blocks.1.grow.weight", "0,2"),
        ("hsdp", "first.weight", "1,3"),
        ("pipeline", "last.bias", "2-3"),
    ],
)
def test_what_is_equal_is_compared_wherever_it_is_held(
    name: str, tensor: str, holders: str, apart: dict[str, list[Ended]]
) -> None:
    ended = [one for one in apart[name] if one.error or one.value]
    assert ended and {(one.error, one.phase, one.text) for one in ended} == {
        ("CheckpointError", "verify", ended[0].text)
    }
    assert f"'{tensor}'" in ended[0].text and f"(ranks {holders})" in ended[0].text


@pytest.mark.parametrize("name", ["cut tp", "fsdp", "kept per_rank"])
def test_what_differs_by_right_is_saved(name: str, apart: dict[str, list[Ended]]) -> None:
    assert [one.text for one in apart[name] if one.error] == []


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("fsdp replicated", "cut along fsdp (DTensor)), so the rest would be lost. Declare per_rank"),
        ("stages replicated", "its own layers along pp), so the rest would be lost. Declare per_rank"),
        ("stages per_group:pp", "so the rest would be lost. Declare per_group:dp"),
        (
            "kept replicated",
            "a DTensor that is sharded along fsdp, so it cannot be shared as replicated; declare sharing.model=per_rank",
        ),
    ],
)
def test_a_sharing_that_would_lose_something_is_refused_with_a_remedy(
    name: str, told: str, apart: dict[str, list[Ended]]
) -> None:
    ended = [one for one in apart[name] if one.error]
    assert len(ended) == (2 if "4" not in name and name in ("stages replicated", "kept replicated") else 4)
    assert all(told in one.text for one in ended), ended[0].text


def test_copies_of_different_states_are_not_mixed(apart: dict[str, list[Ended]]) -> None:
    refused, first = apart["independent error"][0], apart["independent first"][0]
    assert "hold different values of weight" in refused.text and "on_missing_copy" in refused.text
    assert first.value == 0


def test_what_several_hold_is_written_once(apart: dict[str, list[Ended]]) -> None:
    """Under fsdp_tp a norm is cut by fsdp and not by tp."""
    held = [set(one.value) for one in apart["names"]]
    norm, matrix = "blocks.1.norm.weight", "blocks.1.grow.weight"
    assert [norm in names for names in held] == [True, False, True, False]
    assert [matrix in names for names in held] == [True, True, True, True]


def test_in_the_same_topology_a_rank_opens_its_own_files(apart: dict[str, list[Ended]]) -> None:
    """And the first one's, which has the buffers that nobody has cut."""
    for rank, one in enumerate(apart["opened"]):
        model = [f"model/rank-{number:05d}.safetensors" for number in sorted({0, rank})]
        assert one.value == [*model, f"optimizer/rank-{rank:05d}.safetensors"]


def test_a_damaged_part_of_one_rank_stops_all(apart: dict[str, list[Ended]]) -> None:
    assert {one.text for one in apart["damaged"]} == {apart["damaged"][0].text}
    assert "rank-00002.safetensors: tensor" in apart["damaged"][0].text and apart["damaged"][0].phase == "read"


def peak_kb() -> int:
    """The most memory that this process has held since `forget_peak`, in KiB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def forget_peak() -> int:
    """The memory that this process holds, in KiB, which is the peak from here on."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_kb()


@pytest.mark.slow
@pytest.mark.parametrize(("saved", "loaded"), [(4, 2), (2, 4), (1, 4)])
def test_a_load_needs_its_own_part_and_a_bucket(tmp_path: Path, saved: int, loaded: int) -> None:
    """A state of 256 MB, cut along its second dimension too, by other numbers of ranks."""
    size, bucket, slack = 256 * 2**10, BUCKET // 2**10, 24 * 2**10

    def body(rank: Rank) -> int:
        with rank.process_group():
            for step, world in enumerate((saved, loaded)):
                mesh = DeviceMesh("cpu", torch.arange(world), mesh_dim_names=("fsdp",))
                if rank.number < world:
                    model = torch.nn.Module()
                    for name, dimension in (("rows", 0), ("columns", 1)):
                        full = torch.empty(4096, 8192, dtype=torch.float32, device="meta")
                        part = distribute_tensor(full, mesh, [Shard(dimension)], src_data_rank=None)
                        local = torch.full(part.to_local().shape, float(rank.number))
                        whole = DTensor.from_local(local, mesh, [Shard(dimension)], run_check=False)
                        setattr(model, name, torch.nn.Parameter(whole, requires_grad=False))
                    del full, part, local, whole
                    live = Topology(world, {"fsdp": world})
                    comm = rank.comm(f"peak {step}", world)
                    coordinator = CheckpointCoordinator([StateComponent("model", model)], live, tmp_path, comm=comm)
                    if step == 0:
                        coordinator.save(1)
                        del model, coordinator
                    else:
                        before = forget_peak()
                        coordinator.load(1)
                        return peak_kb() - before
                if step == 0:
                    rank.meet_again("saved")
        return 0

    for extra in run(body, 4)[:loaded]:
        assert extra < size / loaded + bucket + slack
