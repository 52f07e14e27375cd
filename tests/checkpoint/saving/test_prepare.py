"""States are flattened all at once, and the parts of each copy planned alike on all ranks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from few_ranks import among
from solo import Box

from dcp_runner.checkpoint.bind import bind
from dcp_runner.checkpoint.component import StateComponent
from dcp_runner.checkpoint.digest import digest_tensor
from dcp_runner.checkpoint.errors import UnsupportedStateError
from dcp_runner.checkpoint.saving.prepare import digest_tensors, flatten_states, plan_parts
from dcp_runner.checkpoint.saving.write_plan import MIN_PART
from dcp_runner.checkpoint.sync.comm import Comm
from dcp_runner.checkpoint.topology import Topology


def test_everything_that_cannot_be_stored_is_named_at_once() -> None:
    components = [StateComponent(key, Box({"x": object(), "ok": 1})) for key in "ab"]
    with pytest.raises(UnsupportedStateError, match=r"component 'a' .*x: .*; component 'b' .*x: "):
        flatten_states(bind(components, Topology(1), 0))


def test_all_ranks_plan_the_same_parts_and_small_components_start_with_different_writers() -> None:
    large = {name: torch.zeros(MIN_PART // 4) for name in "xyz"}
    states: dict[str, Any] = {"large": large, "small": {"t": torch.ones(1)}, "tiny": {"t": torch.ones(1)}}

    def work(comm: Comm) -> Any:
        bound = bind([StateComponent(key, Box(state)) for key, state in states.items()], Topology(2), comm.rank)
        prepared = plan_parts(bound, flatten_states(bound), comm)
        digest_tensors(prepared)
        assert prepared[1].digests == {"t": digest_tensor(torch.ones(1))}
        assert sorted(prepared[0].tensors_of(prepared[0].parts[0])) != ["x", "y", "z"]
        return [[(part.path, part.writer, part.names) for part in component.parts] for component in prepared]

    ours, theirs = among(2, work)
    assert ours == theirs and len(ours[0]) == 2
    assert [parts[0][1] for parts in ours[1:]] == [1, 0]


def test_what_is_compared_is_grouped_by_its_sharing() -> None:
    def work(comm: Comm) -> Any:
        bound = bind([StateComponent("box", Box({"t": torch.ones(2), "n": 1}), "replicated")], Topology(2), comm.rank)
        prepared = plan_parts(bound, flatten_states(bound), comm)
        digest_tensors(prepared)
        return {sharing: sorted(table) for sharing, table in prepared[0].by_sharing().items()}

    (found, again) = among(2, work)
    assert found == again and list(found) == ["replicated"] and {"t", "n"} <= set(found["replicated"])
