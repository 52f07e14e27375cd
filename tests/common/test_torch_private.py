"""The private APIs of torch: all in one module, and all of them there in the torch that is installed."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from dcp_runner.common import torch_private

ROOT = Path(__file__).parents[2]
SEAM = ROOT / "dcp_runner/common/torch_private.py"


# -- each of them does what it is there for ----------------------------------------------------------------------------


@contextmanager
def process_group(size: int) -> Iterator[None]:
    """In which this process stands for all ranks."""
    dist.init_process_group("fake", store=torch_private.fake_store(), rank=0, world_size=size)
    try:
        yield
    finally:
        dist.destroy_process_group()


def default_store() -> None:
    with process_group(2):
        assert isinstance(torch_private.default_store(), dist.Store)


def fake_store() -> None:
    with process_group(8):
        dist.barrier()
        assert dist.get_world_size() == 8


def replicate() -> None:
    with process_group(2):
        model = nn.Linear(2, 2)
        mesh = dist.device_mesh.init_device_mesh("cpu", (2,), mesh_dim_names=("dp",))
        replicated = torch_private.replicate(model, mesh=mesh)
        assert replicated is model and type(model.weight).__name__ == "DTensor"


def import_dynamo() -> None:
    torch_private.import_dynamo()
    assert "torch._dynamo" in sys.modules


def memory_id() -> None:
    tensor = torch.empty(4, device="meta")
    same, other = (torch_private.memory_id(one) for one in (tensor[1:], torch.empty(4, device="meta")))
    assert torch_private.memory_id(tensor) == same != other


def inside_compiled() -> None:
    model = nn.Linear(2, 2)
    assert torch_private.inside_compiled(torch.compile(model, backend="eager")) is model
    assert torch_private.inside_compiled(model) is None


def metadata_of() -> None:
    assert torch_private.metadata_of(nn.BatchNorm1d(2).state_dict())[""] == {"version": 2}
    assert torch_private.metadata_of({}) is None


def set_metadata() -> None:
    """BatchNorm before version 2 has not counted its batches: without versions the load would ask for less."""
    model = nn.BatchNorm1d(2)
    state = model.state_dict()
    del state["num_batches_tracked"]
    torch_private.set_metadata(state, {"": {"version": 1}})
    assert not model.load_state_dict(state).missing_keys


def persistent_buffers() -> None:
    model = nn.Module()
    model.register_buffer("kept", torch.zeros(1))
    model.register_buffer("absent", torch.zeros(1), persistent=False)
    model.register_buffer("none", None)
    assert [id(buffer) for buffer in torch_private.persistent_buffers(model)] == [id(model.kept)]


def child_modules() -> None:
    model = nn.ModuleList([nn.Linear(1, 1), nn.Linear(2, 2)])
    del torch_private.child_modules(model)["0"]
    assert list(model.state_dict()) == ["1.weight", "1.bias"]


def set_last_rates() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    torch_private.set_last_rates(scheduler, [0.5])
    assert scheduler.get_last_lr() == [0.5]


def trees() -> None:
    tree = {"a": [1, torch.zeros(2)], "b": 3}
    assert torch_private.tree_leaves(tree)[::2] == [1, 3]
    assert torch_private.tree_map_only(int, lambda number: -number, tree)["a"][0] == -1
    assert torch_private.tree_unflatten([1, 2, 3], torch_private.tree_structure(tree)) == {"a": [1, 2], "b": 3}


def module_keys() -> None:
    keys = nn.Linear(1, 1, bias=False).load_state_dict({"b": 0}, strict=False)
    assert torch_private.IncompatibleKeys(["weight"], ["b"]) == keys


USES: dict[str, Callable[[], None]] = {
    "default_store": default_store, "fake_store": fake_store, "replicate": replicate, "import_dynamo": import_dynamo,
    "memory_id": memory_id, "inside_compiled": inside_compiled, "metadata_of": metadata_of,
    "set_metadata": set_metadata, "persistent_buffers": persistent_buffers, "child_modules": child_modules,
    "set_last_rates": set_last_rates, "tree_leaves": trees, "tree_map_only": trees, "tree_structure": trees,
    "tree_unflatten": trees, "IncompatibleKeys": module_keys,
}  # fmt: skip


@pytest.mark.parametrize("name", USES)
def test_the_installed_torch_has_it(name: str) -> None:
    assert hasattr(torch_private, name)
    USES[name]()


def names_of(tree: ast.Module) -> list[str]:
    """What a module defines."""
    defined = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    assigned = [node.targets[0] for node in tree.body if isinstance(node, ast.Assign)]
    return [*defined, *(target.id for target in assigned if isinstance(target, ast.Name))]


def test_all_of_them_are_tried_here() -> None:
    assert sorted(names_of(ast.parse(SEAM.read_text()))) == sorted(USES)


def test_each_says_with_which_version_it_was_tested() -> None:
    text = SEAM.read_text()
    for block in text.split("\n\n\n")[1:]:
        assert "2.13.0" in block, block


# -- nothing else of ours uses a private API of torch ------------------------------------------------------------------


def private(name: str) -> bool:
    """Whether a dotted name of torch is private."""
    parts = name.split(".")
    return parts[0] == "torch" and any(part.startswith("_") and not part.startswith("__") for part in parts)


def attributes(tree: ast.AST) -> set[str]:
    """Names of private attributes that are read or written, whatever the object, by getattr and its like too."""
    named = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("attr")]
    named |= {ast.unparse(argument).strip("'\"") for call in calls for argument in call.args}
    return {name for name in named if name.startswith("_") and not name.startswith("__")}


def offences(tree: ast.AST, of_torch: set[str]) -> Iterator[str]:
    """Private APIs of torch: imported, reached from torch by attributes, or attributes that the seam is there for."""
    names = {"torch": "torch"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if private(alias.name))
            names |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found = {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            yield from (name for name in found.values() if private(name))
            names |= found
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            first, dot, rest = ast.unparse(node).partition(".")
            if private(names.get(first, "") + dot + rest):
                yield ast.unparse(node)
    yield from attributes(tree) & of_torch


def seam_attributes() -> set[str]:
    return attributes(ast.parse(SEAM.read_text()))


def test_no_other_module_uses_private_apis_of_torch() -> None:
    of_torch = seam_attributes()
    assert "_last_lr" in of_torch and "_orig_mod" in of_torch
    files = [file for top in ("dcp_runner", "hydra_plugins") for file in (ROOT / top).rglob("*.py") if file != SEAM]
    assert len(files) > 100
    found: dict[str, list[Any]] = {str(file): [*offences(ast.parse(file.read_text()), of_torch)] for file in files}
    assert {file: names for file, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "code",
    [
        "import torch._dynamo",
        "from torch._C._distributed_c10d import Store",
        "from torch.testing._internal.distributed.fake_pg import FakeStore",
        "from torch.utils import _pytree as trees",
        "from torch.nn.modules.module import _IncompatibleKeys",
        "import torch\ntorch.utils._pytree.tree_leaves([])",
        "import torch.distributed as dist\ndist.distributed_c10d._get_default_store()",
        "from torch import distributed\ndistributed.distributed_c10d._get_default_store()",
        "scheduler._last_lr = []",
        "getattr(module, '_orig_mod', None)",
    ],
)
def test_it_would_be_seen(code: str) -> None:
    assert [*offences(ast.parse(code), seam_attributes())]
    assert not [
        *offences(ast.parse("import torch\ntorch.zeros(1)\nself._tensors\ntorch.__version__"), seam_attributes())
    ]
