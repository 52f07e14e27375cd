"""What `sharing=auto` decides under every topology, from what the objects are; and that a false declaration is refused."""

from __future__ import annotations

import pytest
from composing import composed, config

from dcp_runner.launch.preflight.checks import check
from dcp_runner.launch.preflight.child_process import in_child_process
from dcp_runner.launch.preflight.trial_build import meta_model
from dcp_runner.run.component_names import COMPONENTS
from dcp_runner.run.plan_table import planned_components

DEGREES = {"dp": 2, "fsdp": 2, "pp": 2, "tp": 2}
TABLE = {
    # topology: (axes, model and optimizer, their first copies, dataset if every rank reads)
    "single": ("", "global", ["all"], "global"),
    "ddp": ("dp", "replicated", ["all"], "per_rank"),
    "accelerate": ("dp", "replicated", ["all"], "per_rank"),
    "fsdp": ("fsdp", "per_rank", ["rank-00000", "rank-00001"], "per_rank"),
    "hsdp": ("dp fsdp", "per_group:dp", ["fsdp-0", "fsdp-1"], "per_rank"),
    "tp": ("tp", "per_rank", ["rank-00000", "rank-00001"], "replicated"),
    "pipeline": ("pp", "per_rank", ["rank-00000", "rank-00001"], "replicated"),
    "dp_tp": ("dp tp", "per_group:dp", ["tp-0", "tp-1"], "per_group:tp"),
    "dp_pp": ("pp dp", "per_group:dp", ["pp-0", "pp-1"], "per_group:pp"),
    "fsdp_tp": ("fsdp tp", "per_rank", ["rank-00000", "rank-00001"], "per_group:tp"),
    "dp_pp_tp": ("pp dp tp", "per_group:dp", ["pp-0_tp-0", "pp-0_tp-1"], "per_group:pp+tp"),
}


Sharing = tuple[str, list[str]]
"""A pattern, and the names of the copies."""


def bound_of(name: str, *overrides: str) -> dict[str, Sharing]:
    """By component; planned aside, because what is planned here would stay with the ranks that other tests fork."""
    degrees = [f"parallel.{axis}=2" for axis in TABLE[name][0].split()]
    made = config(f"parallel={name}", "model=gpt_tiny", "model.layers=4", *degrees, *overrides)

    def plan() -> dict[str, Sharing] | str:
        try:
            with planned_components(made, meta_model(made)) as (bound, topology):
                assert " ".join(axis for axis, degree in topology.mesh.items() if degree > 1) == TABLE[name][0]
                return {one.key: (str(one.resolved.sharing), [copy.name for copy in one.copies]) for one in bound}
        except ValueError as error:
            return str(error)

    found = in_child_process(name, plan)
    if isinstance(found, str):
        raise ValueError(found)
    return found


QUICK = ("single", "fsdp", "dp_pp_tp")


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in TABLE])
def test_auto(name: str) -> None:
    _, model, copies, dataset = TABLE[name]
    bound = bound_of(name, "data.dispatch=independent")
    for key in ("model", "optimizer"):
        assert (bound[key][0], bound[key][1][: len(copies)]) == (model, copies)
    assert bound["dataset"][0] == dataset
    assert {bound[key][0] for key in ("scheduler", "progress")} == {"replicated"}
    assert bound["rng"][0] == "per_rank"
    assert bound_of(name)["dataset"][0] == ("per_rank" if name == "accelerate" else "global")


@pytest.mark.parametrize(
    ("name", "declared", "remedy"),
    [
        ("dp_pp", "per_group:pp", "Declare per_group:dp"),
        pytest.param("pipeline", "replicated", "Declare per_rank", marks=pytest.mark.slow),
        pytest.param("fsdp", "global", "Declare per_rank", marks=pytest.mark.slow),
        pytest.param("hsdp", "per_group:dp+fsdp", "Declare per_group:dp", marks=pytest.mark.slow),
        pytest.param("dp_tp", "per_node", "Declare per_group:dp", marks=pytest.mark.slow),
    ],
)
def test_a_declaration_that_would_lose_something(name: str, declared: str, remedy: str) -> None:
    with pytest.raises(ValueError, match="so the rest would be lost") as caught:
        bound_of(name, f"sharing.model={declared}")
    assert f"declared as {declared}" in str(caught.value) and remedy in str(caught.value)


def test_it_is_told_before_a_rank_starts() -> None:
    (told,) = check(composed("parallel=pipeline", "parallel.pp=2", "model=gpt_tiny", "sharing.model=replicated"))
    assert told.startswith("sharing: ") and "Declare per_rank or auto" in told


def test_a_finer_declaration_than_needed_is_taken() -> None:
    assert bound_of("hsdp", "sharing.model=per_rank")["model"][0] == "per_rank"


def test_the_components_are_those_that_the_checks_know() -> None:
    assert {*bound_of("single")} == {*COMPONENTS}
