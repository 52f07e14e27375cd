"""Modules as components: strict, by name, with buffers and extra state."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from solo import Box, alone, bits
from torch import nn

from dcp_runner import CheckpointError, StateComponent
from dcp_runner.checkpoint.state.modules import ModelState
from dcp_runner.checkpoint.topology import Topology
from dcp_runner.common.suggest import HINTED


class Bag(nn.Module):
    """Parameters of these names; a tensor of integers becomes a buffer."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            if tensor.is_floating_point():
                self.register_parameter(name, nn.Parameter(tensor))
            else:
                self.register_buffer(name, tensor)


def load_model(folder: Path, saved: nn.Module, live: nn.Module, **options: Any) -> Any:
    alone(folder, StateComponent("model", saved)).save(1)
    return alone(folder, StateComponent("model", live)).load(1, **options)


COMMON = {"same": torch.ones(2)}

SAVED = {"encoder_inn": torch.ones(1), "encoder_midd": torch.ones(1), "encoder_outt": torch.ones(1)}

LIVE = {"encoder_in": torch.zeros(1), "encoder_mid": torch.zeros(1), "encoder_out": torch.zeros(1)}

SHAPES = {"s0": ((2, 3), (3, 2)), "s1": ((4,), (4, 1)), "s2": ((), (1,))}

DTYPES = {"d0": (torch.float32, torch.float64), "d1": (torch.int32, torch.int64), "d2": (torch.bfloat16, torch.float16)}


def bags(wrong: bool = True) -> tuple[Bag, Bag]:
    saved, live = {**COMMON, **SAVED}, {**{name: -tensor for name, tensor in COMMON.items()}, **LIVE}
    if wrong:
        saved |= {name: torch.ones(there) for name, (there, _) in SHAPES.items()}
        live |= {name: torch.zeros(here) for name, (_, here) in SHAPES.items()}
        saved |= {name: torch.ones(2, dtype=there) for name, (there, _) in DTYPES.items()}
        live |= {name: torch.zeros(2, dtype=here) for name, (_, here) in DTYPES.items()}
    return Bag(saved), Bag(live)


def test_all_that_does_not_fit_is_told_at_once_with_near_names(tmp_path: Path) -> None:
    saved, live = bags()
    before = bits(live.state_dict())
    with pytest.raises(CheckpointError) as failure:
        load_model(tmp_path, saved, live)
    assert failure.value.types == {"MismatchError"} and failure.value.phase == "compare"
    lines = [line.strip() for line in str(failure.value).splitlines()]
    expected = {f"model: missing in the checkpoint: {name} (near: {name}{name[-1]})" for name in LIVE}
    expected |= {f"model: unexpected in the checkpoint: {name} (near: {name[:-1]})" for name in SAVED}
    expected |= {
        f"model: {name}: shape {there} in the checkpoint, {here} here" for name, (there, here) in SHAPES.items()
    }
    expected |= {
        f"model: {name}: dtype {there} in the checkpoint, {here} here" for name, (there, here) in DTYPES.items()
    }
    assert expected <= set(lines) and len(expected) == 12 and len(lines) == 2 + 12
    assert bits(live.state_dict()) == before


def test_not_strict_tolerates_and_reports_what_is_missing_or_unexpected(tmp_path: Path) -> None:
    saved, live = bags(wrong=False)
    report = load_model(tmp_path, saved, live, strict=False)
    assert len(report.accepted) == 6 and all(any(name in note for note in report.accepted) for name in (*SAVED, *LIVE))
    assert bits(live.same) == bits(saved.same) and not live.encoder_in.any(), "what is missing stays as it is"


def test_not_strict_tolerates_no_wrong_shape_or_dtype(tmp_path: Path) -> None:
    saved, live = bags()
    before = bits(live.state_dict())
    with pytest.raises(CheckpointError) as failure:
        load_model(tmp_path, saved, live, strict=False)
    assert all(f"{name}: " in str(failure.value) for name in (*SHAPES, *DTYPES))
    assert bits(live.state_dict()) == before


def test_near_names_are_looked_for_only_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search among thousands of names takes long, and a wrong prefix makes all of them differ."""
    searched: list[str] = []
    monkeypatch.setattr("dcp_runner.common.suggest.get_close_matches", lambda name, *_: searched.append(name) or [])
    module = Bag({f"a{number}": torch.ones(1) for number in range(100)})
    found = ModelState(module, "model", Topology(1)).differences({f"b{number}": torch.ones(1) for number in range(100)})
    assert len(found.missing) == len(found.unexpected) == 100 and len(searched) == 2 * HINTED


class Lookalike(Box):
    """Saves what a module would not."""


def test_a_number_where_a_tensor_belongs_is_found_before_anything_changes(tmp_path: Path) -> None:
    alone(tmp_path, StateComponent("model", Lookalike({"a": torch.ones(2), "b": 3.5}))).save(1)
    live = Bag({"a": torch.zeros(2), "b": torch.zeros(())})
    with pytest.raises(CheckpointError, match="model: b: float in the checkpoint, a tensor here") as failure:
        alone(tmp_path, StateComponent("model", live)).load(1, strict=False)
    assert failure.value.types == {"MismatchError"} and not live.a.any()


class Extra(nn.Linear):
    """A module with state that is no tensor."""

    note: Any = "fresh"

    def get_extra_state(self) -> Any:
        return self.note

    def set_extra_state(self, state: Any) -> None:
        self.note = state


def test_buffers_and_extra_state_come_back(tmp_path: Path) -> None:
    saved = nn.Sequential(Extra(2, 2), nn.BatchNorm1d(2))
    saved[0].note = {"calls": (1, 2)}
    saved(torch.rand(5, 2))
    live = nn.Sequential(Extra(2, 2), nn.BatchNorm1d(2))
    load_model(tmp_path, saved, live)
    assert live[0].note == {"calls": (1, 2)} and bits(live.state_dict()) == bits(saved.state_dict())


EXTRAS: dict[str, tuple[Any, Any]] = {
    "another size": (torch.arange(3.0), torch.zeros(0)),
    "another dtype": (torch.arange(3), torch.zeros(1)),
    "a tensor, where there is none": (torch.ones(2), None),
    "none, where there is a tensor": (None, torch.ones(2)),
    "a stream, where there is a tensor": (BytesIO(b"ab"), torch.ones(2)),
    "a stream": (BytesIO(b"abcd"), BytesIO()),
    "bytes": (bytearray(b"ab"), b""),
    "tensors inside": ({"amax": [torch.ones(3), {1, 2}], "dtype": torch.float16}, {"amax": []}),
}


@pytest.mark.parametrize("name", EXTRAS)
@pytest.mark.parametrize("depth", [0, 1])
def test_extra_state_may_change_in_any_way(name: str, depth: int, tmp_path: Path) -> None:
    saved, live = (Extra(2, 2), Extra(2, 2)) if depth == 0 else (nn.Sequential(Extra(2, 2)), nn.Sequential(Extra(2, 2)))
    (saved if depth == 0 else saved[0]).note, (live if depth == 0 else live[0]).note = EXTRAS[name]
    load_model(tmp_path, saved, live)
    assert bits(live.state_dict()) == bits(saved.state_dict())


def test_only_extra_state_may_change(tmp_path: Path) -> None:
    saved, live = Bag({"my_extra_state": torch.ones(2)}), Bag({"my_extra_state": torch.ones(3)})
    with pytest.raises(CheckpointError, match=r"my_extra_state: shape \(2,\) in the checkpoint, \(3,\) here"):
        load_model(tmp_path, saved, live)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_compiled_module_has_the_names_of_the_module_inside() -> None:
    module = nn.Linear(2, 2)
    state = ModelState(torch.compile(module), "model", Topology(1))
    assert list(state.state_dict()) == ["weight", "bias"]
    state.load_state_dict({"weight": torch.ones(2, 2), "bias": torch.ones(2)})
    assert module.weight.sum() == 4
