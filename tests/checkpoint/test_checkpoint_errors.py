"""The errors of the checkpoint core: the tree in the docstring is the classes that exist; a failed phase in words."""

from __future__ import annotations

import inspect
import re

import pytest

from dcp_runner.checkpoint import errors
from dcp_runner.checkpoint.errors import CheckpointError, RankFailure

CLASSES = [
    name for name, value in vars(errors).items() if inspect.isclass(value) and value.__module__ == errors.__name__
]


def named_in_tree(docstring: str) -> list[str]:
    """The first word of each line of the tree."""
    return re.findall(r"^[ │├└─]*([A-Z]\w+)  +\S", docstring, re.MULTILINE)


def test_the_tree_in_the_docstring_has_exactly_the_classes_that_exist() -> None:
    assert sorted(named_in_tree(errors.__doc__ or "")) == sorted(CLASSES) and len(CLASSES) > 8


def test_this_test_would_see_a_name_too_many() -> None:
    assert "GoneError" in named_in_tree((errors.__doc__ or "") + "  └ GoneError    went\n")


def test_every_message_has_its_ranks_and_hosts() -> None:
    failures = [
        RankFailure(0, "n1", "IntegrityError", "a.safetensors: truncated"),
        RankFailure(2, "n2", "IntegrityError", "a.safetensors: truncated"),
        RankFailure(3, "", "StoreTimeout", "no answer", consequence=True),
    ]
    error = CheckpointError("read", failures, [0, 1, 2], "\nnothing was changed")
    assert str(error).splitlines() == [
        "checkpoint phase 'read' failed",
        "  ranks 0,2 on n1, n2: IntegrityError: a.safetensors: truncated",
        "  rank 3: StoreTimeout: no answer",
        "nothing was changed",
    ]
    assert error.types == {"IntegrityError", "StoreTimeout"} and error.alive == (0, 1, 2)
    assert error.reasons == "a.safetensors: truncated; no answer"
    with pytest.raises(RuntimeError):
        raise error
