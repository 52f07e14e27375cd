"""Checkpoints that an earlier version wrote, one of each topology, load to the same bits.

`tests/data/checkpoints/<topology>` is what three steps on the tokens below left behind; `expected.json` has the digest
of every state as the version that wrote them loaded it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import xxhash

from dcp_runner import CheckpointCoordinator, StateComponent, Topology
from dcp_runner.models.gpt import GPT

EARLIER = Path(__file__).parent.parent / "data" / "checkpoints"
TOPOLOGIES = sorted(path.name for path in EARLIER.iterdir() if path.is_dir())


class Holder:
    """Keeps whatever it is given."""

    def __init__(self, state: dict[str, Any]) -> None:
        self.state = state

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = state


def digest(state: Any) -> str:
    """Of every value in a state: its place in the tree, and its bytes or its text."""
    leaves, _ = torch.utils._pytree.tree_flatten_with_path(state)
    texts = [
        f"{[str(key) for key in path]} {leaf.dtype} {leaf.numpy().tobytes().hex()}"
        if isinstance(leaf, torch.Tensor)
        else f"{[str(key) for key in path]} {leaf!r}"
        for path, leaf in leaves
    ]
    return xxhash.xxh3_128_hexdigest("\n".join(sorted(texts)).encode())


def loaded(topology: str, folder: Path) -> dict[str, str]:
    """The digest of each component after a load on one rank."""
    torch.manual_seed(1)
    model = GPT(vocab_size=16, context=8, layers=2, heads=2, width=8, tied=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.5)
    others = {name: Holder({}) for name in ("scheduler", "dataset", "progress", "callbacks", "rng")}
    components = [
        StateComponent("model", model),
        StateComponent("optimizer", optimizer),
        *(StateComponent(name, other, "per_rank", on_missing_copy="first") for name, other in others.items()),
    ]
    coordinator = CheckpointCoordinator(components, Topology(1), folder)
    assert coordinator.load(str(EARLIER / topology)).step == 3
    states = {component.key: component.stateful.state_dict() for component in components}
    return {key: digest(state) for key, state in states.items()}


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_a_checkpoint_that_an_earlier_version_wrote_loads_to_the_same_bits(topology: str, tmp_path: Path) -> None:
    expected = json.loads((EARLIER / "expected.json").read_text())
    assert loaded(topology, tmp_path) == expected[topology]


def test_there_is_one_of_each_topology() -> None:
    conf = Path(__file__).parent.parent.parent / "conf" / "parallel"
    assert {file.stem for file in conf.glob("*.yaml")} == set(TOPOLOGIES)
