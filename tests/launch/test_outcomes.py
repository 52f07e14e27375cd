"""Records of how ranks failed and exited, on disk, and the exit code that they add up to."""

from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dcp_runner.common.errors import ConfigError
from dcp_runner.launch import outcomes
from dcp_runner.launch.outcomes import (
    FailureRecord,
    RankExit,
    RunResult,
    exit_code,
    failure_record,
    read_exit_records,
    read_failure_records,
    write_exit_record,
    write_failure_record,
)

KILL = -signal.SIGKILL


def record(rank: int, time: float, message: str = "boom") -> FailureRecord:
    return FailureRecord(rank, "host", 1, "ValueError", message, f"Traceback of rank {rank}", time)


@pytest.mark.parametrize(
    ("codes", "by_launcher", "stopped_by", "expected"),
    [
        ([0, 0], [], None, 0),
        ([1, 0], [], None, 1),
        ([0, KILL], [], None, 1),
        ([130, 130], [], 2, 130),
        ([143, 143], [], None, 143),
        ([143, 1], [], 15, 1),
        ([143, 0], [], None, 1),
        ([7, 7], [], None, 1),
        ([KILL, KILL], [0, 1], 2, 130),
        ([130, KILL], [1], 2, 130),
        ([1, KILL], [1], None, 1),
        ([0, 0], [], 2, 0),
    ],
)
def test_the_exit_code(codes: list[int], by_launcher: list[int], stopped_by: int | None, expected: int) -> None:
    exits = [RankExit(rank, code, rank in by_launcher) for rank, code in enumerate(codes)]
    assert RunResult(exits, stopped_by).exit_code == expected


def test_records_survive_the_disk(tmp_path: Path) -> None:
    records = [record(0, 1.5), record(3, 2.5, message="mit Ümlaut\nand lines")]
    for failure in records:
        write_failure_record(tmp_path, failure)
    assert read_failure_records(tmp_path) == records
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rank-00000.json", "rank-00003.json"]


@pytest.mark.parametrize(("all_come", "at_most", "at_least"), [(True, 9.0, 0.0), (False, 9.0, 0.4)])
def test_a_rank_waits_for_the_records_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, all_come: bool, at_most: float, at_least: float
) -> None:
    monkeypatch.setattr(outcomes, "RECORDS_WAIT_S", 10.0 if all_come else 0.4)
    write_failure_record(tmp_path, record(0, 1.0))
    began = time.monotonic()
    with ThreadPoolExecutor() as threads:
        lingering = threads.submit(outcomes.wait_for_failure_records, tmp_path, 2)
        if all_come:
            assert not lingering.done()
            write_failure_record(tmp_path, record(1, 2.0))
        lingering.result(60)
    assert at_least <= time.monotonic() - began < at_most


def test_exit_records_survive_the_disk(tmp_path: Path) -> None:
    for rank, code in ((0, 0), (12, 143)):
        write_exit_record(tmp_path, rank, code)
    assert {rank: exit.code for rank, exit in read_exit_records(tmp_path).items()} == {0: 0, 12: 143}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["left-00000.json", "left-00012.json"]
    assert read_exit_records(tmp_path / "nowhere") == {} and read_failure_records(tmp_path / "nowhere") == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (None, 0),
        (SystemExit(), 0),
        (SystemExit(7), 7),
        (SystemExit("a text"), 1),
        (KeyboardInterrupt(), 130),
        (ValueError("boom"), 1),
        (ConfigError("the ranks differ"), 1),
    ],
)
def test_the_exit_code_of_an_error(error: BaseException | None, code: int) -> None:
    assert exit_code(error) == code


def test_the_record_of_an_error() -> None:
    try:
        raise RuntimeError("boom") from ValueError("the cause")
    except RuntimeError as error:
        made = failure_record(error, 3)
    assert (made.rank, made.type, made.message, made.expected) == (3, "RuntimeError", "boom", False)
    assert "ValueError: the cause" in made.traceback and made.traceback.endswith("RuntimeError: boom\n")
