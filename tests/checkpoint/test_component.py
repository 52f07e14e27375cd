"""A component refuses what contradicts itself, in one line."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from solo import Box

from dcp_runner import SharingPattern, StateComponent
from dcp_runner.checkpoint.config import Validation

P = SharingPattern


@pytest.mark.parametrize(
    ("pattern", "group", "declared"),
    [
        (P.PER_GROUP, "dp+tp", "per_group:dp+tp"),
        ("per_group", "dp", "per_group:dp"),
        ("per_group:dp", None, "per_group:dp"),
        ("per_group:dp", "dp", "per_group:dp"),
        (P.GLOBAL, None, "global"),
        ("auto", None, "auto"),
    ],
)
def test_a_pattern_and_its_group_are_one_text(pattern: Any, group: str | None, declared: str) -> None:
    assert StateComponent("x", Box(), pattern, group).declared == declared


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"key": "a/b"}, "cannot name a file"),
        ({"key": ""}, "cannot name a file"),
        ({"key": ".hidden"}, "cannot name a file"),
        ({"key": ".."}, "cannot name a file"),
        ({"key": "a-00001-of-00002"}, "cannot name a file"),
        ({"key": "a\n"}, "cannot name a file"),
        ({"sharing_pattern": P.GLOBAL, "process_group_name": "dp"}, "goes with PER_GROUP"),
        ({"process_group_name": "dp"}, "goes with PER_GROUP"),
        ({"sharing_pattern": "per_group:tp", "process_group_name": "dp"}, "goes with PER_GROUP"),
        ({"validation_level": "tensr"}, "validation_level must be one of None, none, quick, tensor, full, not 'tensr'"),
        ({"on_missing_copy": "guess"}, "on_missing_copy must be one of error, fresh, first"),
    ],
)
def test_contradictions_in_a_component_are_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        StateComponent(**({"key": "x", "stateful": Box()} | arguments))


@pytest.mark.parametrize("level", [None, "quick", Validation.full])
def test_levels_may_be_text(level: Any) -> None:
    assert StateComponent("x", Box(), validation_level=level).validation_level == level


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"key": 3}, "component 3: key must be a str, not 3"),
        (
            {"stateful": {"step": 1}},
            r"state_dict\(\) and load_state_dict\(\), such as a module or an optimizer, not {'step'",
        ),
        ({"stateful": Box}, "not <class"),
        ({"stateful": None}, "not None"),
        ({"sharing_pattern": None}, "sharing_pattern must be a SharingPattern or its text"),
        ({"process_group_name": ["dp"]}, r"names of mesh axes as text, such as 'dp' or 'dp\+tp', not \['dp'\]"),
        ({"required": np.True_}, "required must be a bool"),
        ({"validate_replication": 1}, "validate_replication must be a bool, not 1"),
    ],
)
def test_arguments_of_a_wrong_type_are_refused_in_one_line(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(TypeError, match=words) as failure:
        StateComponent(**({"key": "x", "stateful": Box()} | arguments))
    assert "\n" not in str(failure.value)


def test_the_docstring_explains_every_field() -> None:
    explained = re.findall(r"^    (\w+)$", StateComponent.__doc__ or "", re.MULTILINE)
    assert explained == [field.name for field in fields(StateComponent)]
