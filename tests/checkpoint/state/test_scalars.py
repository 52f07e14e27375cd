"""Leaves that are JSON: there and back without a file; what is not in the table is refused by type."""

from __future__ import annotations

import json
import math
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any
from uuid import UUID

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from solo import bits

from dcp_runner.checkpoint.errors import UnsupportedStateError
from dcp_runner.checkpoint.state.scalars import EXACT_INT, decode, encode, is_text, knows
from dcp_runner.checkpoint.state.treespec import TAG

PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.complex_numbers()
VALUES: list[Any] = [
    bytearray(b"\xff"),
    "\ud800",
    np.float16(-0.0),
    np.datetime64("2026-02-28", "s"),
    Decimal("sNaN1"),
    range(2**70, 0, -3),
    slice("a", None, -math.inf),
    datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=timezone(timedelta(hours=9), "Tokyo")),
    PurePosixPath("a/b"),
    UUID(int=7),
    torch.device("cuda", 1),
    torch.bfloat16,
]


def there_and_back(value: Any) -> Any:
    return decode(json.loads(json.dumps(encode(value), allow_nan=False)))


@given(PLAIN)
def test_plain_values_come_back_bit_for_bit(value: Any) -> None:
    assert bits(there_and_back(value)) == bits(value)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_others_come_back_under_a_known_tag(value: Any) -> None:
    assert knows(encode(value)[TAG]) and repr(there_and_back(value)) == repr(value)


def test_an_int_is_plain_json_up_to_what_doubles_hold() -> None:
    assert encode(EXACT_INT) == EXACT_INT and encode(EXACT_INT + 1) == {TAG: "int", "v": hex(EXACT_INT + 1)}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (object(), "type builtins.object"),
        (slice(object()), "type builtins.slice with a value of type builtins.object"),
        (np.longdouble(1), "numpy scalar of dtype"),
    ],
)
def test_what_is_not_in_the_table_is_refused_by_type(value: Any, words: str) -> None:
    with pytest.raises(UnsupportedStateError, match=words):
        encode(value)


def test_what_text_json_holds() -> None:
    assert is_text("é") and not is_text("a\udfff") and not knows("tensor")
