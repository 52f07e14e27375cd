"""The garbage collector is as it was after a pause."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from dcp_runner.launch.preflight.gc_pause import gc_paused


@pytest.fixture(params=[True, False])
def enabled(request: pytest.FixtureRequest) -> Iterator[bool]:
    (gc.enable if request.param else gc.disable)()
    yield request.param
    gc.enable()


def test_it_is_off_inside_and_as_before_afterwards(enabled: bool) -> None:
    with gc_paused():
        assert not gc.isenabled()
        with gc_paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled() == enabled


def test_an_error_does_not_leave_it_off(enabled: bool) -> None:
    with pytest.raises(ValueError), gc_paused():
        raise ValueError
    assert gc.isenabled() == enabled
