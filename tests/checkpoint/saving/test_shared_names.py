"""Copies that are parts of one state agree on every tensor that they hold under one name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from few_ranks import among
from solo import Box

from dcp_runner.checkpoint.bind import bind
from dcp_runner.checkpoint.component import StateComponent
from dcp_runner.checkpoint.saving.prepare import digest_tensors, flatten_states, plan_parts
from dcp_runner.checkpoint.saving.shared_names import conflicts, shared_name_sums
from dcp_runner.checkpoint.sharing import SharingTraits
from dcp_runner.checkpoint.stateful import StateDiff
from dcp_runner.checkpoint.sync.comm import Comm
from dcp_runner.checkpoint.topology import Topology


class Stage(Box):
    """A state of which each pipeline stage has the tensors of its own layers."""

    def differences(self, state: Any) -> StateDiff:
        return StateDiff()

    def accepts(self) -> Any:
        return lambda keys: True

    def target_layout(self) -> Any:
        return self.state

    def sharing_traits(self) -> SharingTraits:
        return SharingTraits("stages", names_vary_along=frozenset({"pp"}))


def judged(states: list[dict[str, float]], sharing: str = "auto", **options: Any) -> list[Any]:
    """What each rank says, and how many exchanges that took; twice, as in two saves."""

    def work(comm: Comm) -> Any:
        state = {name: torch.tensor([value]) for name, value in states[comm.rank].items()}
        component = StateComponent("model", Stage(state), sharing, **options)
        bound = bind([component], Topology(2, {"pp": 2}), comm.rank)
        found = []
        for _ in range(2):
            (prepared,) = plan_parts(bound, flatten_states(bound), comm)
            digest_tensors([prepared])
            sums = comm.exchange("verify", shared_name_sums(prepared))
            before = comm._phases._number
            found.append((conflicts(prepared, sums, comm), comm._phases._number - before))
        return found

    first, second = among(2, work)
    assert first == second
    return first


def test_the_same_tensors_in_all_copies_cost_nothing_more() -> None:
    assert judged([{"buffer": 1}, {"buffer": 1}]) == [([], 0)] * 2


def test_other_names_are_compared_once() -> None:
    assert judged([{"buffer": 1, "first": 2}, {"buffer": 1, "last": 3}])[0] == ([], 1)
    assert judged([{"first": 2}, {"last": 3}]) == [([], 1), ([], 0)], "they have nothing in common, and it is known"


@pytest.mark.parametrize("states", [[{"buffer": 1}, {"buffer": 2}], [{"buffer": 1, "a": 1}, {"buffer": 2, "b": 1}]])
def test_two_values_of_one_name_are_named(states: list[dict[str, float]]) -> None:
    (texts, _), _ = judged(states)
    assert (
        len(texts) == 1
        and "component 'model': tensor 'buffer' has different values in copies 'rank-00000' and 'rank-00001'"
        in texts[0]
    )


@pytest.mark.parametrize("how", [{"sharing": "per_rank"}, {"validation_level": "none"}])
def test_copies_that_need_not_agree_are_not_compared(how: dict[str, Any]) -> None:
    assert judged([{"buffer": 1}, {"buffer": 2}], **how) == [([], 0)] * 2
