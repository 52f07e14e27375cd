"""Who failed first: notes and exit codes, weighed without any process."""

from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dcp_runner.launch import outcomes
from dcp_runner.launch.first_failure import console_summary, first_failure, report
from dcp_runner.launch.outcomes import FailureRecord, RankExit, RunResult, read_failure_records, write_failure_record

KILL, TERM, ABRT = -signal.SIGKILL, -signal.SIGTERM, -signal.SIGABRT
GLOO = "[gloo/transport/tcp/pair.cc:553] Connection closed by peer"
VAIN = "[gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 5000ms for recv operation to complete"
ABSENT = (
    "did not reach a collective (hung or stopped); rank 0 (host) timed out waiting for it: Timed out waiting 5000ms"
)


def note(
    rank: int, time: float, kind: str = "ValueError", message: str = "boom", expected: bool = False
) -> FailureRecord:
    return FailureRecord(rank, "host", 1, kind, message, f"Traceback of rank {rank}", time, expected)


@pytest.mark.parametrize(
    ("exits", "notes", "rank", "said"),
    [
        ([RankExit(0, 0), RankExit(1, 0)], [], None, ""),
        ([RankExit(0, 1), RankExit(1, 1)], [note(0, 2.0), note(1, 1.0)], 1, "raised ValueError: boom"),
        ([RankExit(0, 1), RankExit(1, 1)], [note(0, 1.0, "RuntimeError", GLOO), note(1, 2.0)], 1, "ValueError"),
        ([RankExit(0, 1), RankExit(1, 1)], [note(0, 1.0, "DistBackendError", "x"), note(1, 2.0)], 1, "ValueError"),
        ([RankExit(0, 1), RankExit(1, KILL)], [note(0, 1.0, "RuntimeError", GLOO)], 1, "killed by SIGKILL"),
        ([RankExit(0, 1), RankExit(1, KILL)], [note(0, 1.0)], 1, "killed by SIGKILL"),
        ([RankExit(1, KILL), RankExit(0, KILL, by_launcher=True)], [], 1, "killed by SIGKILL"),
        ([RankExit(1, 1), RankExit(0, KILL, by_launcher=True)], [note(1, 1.0)], 1, "raised ValueError"),
        ([RankExit(1, ABRT), RankExit(0, 1)], [note(1, 2.0), note(0, 1.0, "RuntimeError", GLOO)], 1, "ValueError"),
        ([RankExit(0, 1), RankExit(1, ABRT)], [note(0, 1.0)], 0, "ValueError"),
        ([RankExit(0, 1), RankExit(1, ABRT)], [note(0, 1.0, "RuntimeError", GLOO)], 1, "killed by SIGABRT"),
        ([RankExit(1, 7), RankExit(0, 1)], [note(0, 1.0, "RuntimeError", GLOO)], 1, "exited with code 7"),
        ([RankExit(1, 7), RankExit(0, 1)], [note(0, 1.0)], 0, "ValueError"),
        (
            [RankExit(0, 1), RankExit(1, 1)],
            [note(0, 2.0, "RuntimeError", GLOO), note(1, 1.0, "RuntimeError", GLOO)],
            1,
            GLOO,
        ),
        ([RankExit(0, 1), RankExit(1, KILL, True)], [note(0, 1.0, "RuntimeError", VAIN)], 1, f"rank 1 {ABSENT}"),
        (
            [RankExit(0, 1), RankExit(1, 1)],
            [note(0, 1.0, "E", VAIN), note(1, 3.0, "E", GLOO)],
            1,
            "rank 1 did not reach a collective",
        ),
        ([RankExit(0, 1), RankExit(1, 1)], [note(0, 1.0, "E", VAIN), note(1, 1.1, "E", GLOO)], 0, "raised E: [gloo"),
        ([RankExit(0, 1), RankExit(1, 1)], [note(0, 1.0, "E", VAIN), note(1, 9.0)], 1, "raised ValueError"),
        ([RankExit(0, 1), RankExit(1, 1)], [note(0, 1.0, "E", VAIN), note(1, 0.9, "E", VAIN)], 1, "raised E: [gloo"),
        (
            [RankExit(0, 1), *(RankExit(r, KILL, True) for r in (3, 1))],
            [note(0, 1.0, "E", VAIN)],
            1,
            "rank 1, 3 did not",
        ),
        ([RankExit(0, KILL, by_launcher=True)], [], 0, "was killed by the launcher"),
        ([RankExit(0, -99)], [], 0, "killed by signal 99"),
    ],
)
def test_the_first_failure(exits: list[RankExit], notes: list[FailureRecord], rank: int | None, said: str) -> None:
    first = first_failure(exits, notes)
    assert (first and first.rank) == rank
    assert first is None or said in first.headline


@pytest.mark.parametrize(
    ("codes", "by_launcher", "asked", "expected"),
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
def test_the_exit_code(codes: list[int], by_launcher: list[int], asked: int | None, expected: int) -> None:
    exits = [RankExit(rank, code, rank in by_launcher) for rank, code in enumerate(codes)]
    assert RunResult(exits, asked).exit_code == expected


def test_notes_survive_the_disk(tmp_path: Path) -> None:
    notes = [note(0, 1.5), note(3, 2.5, message="mit Ümlaut\nand lines")]
    for one in notes:
        write_failure_record(tmp_path, one)
    assert read_failure_records(tmp_path) == notes
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rank-00000.json", "rank-00003.json"]


@pytest.mark.parametrize(("all_come", "at_most", "at_least"), [(True, 9.0, 0.0), (False, 9.0, 0.4)])
def test_a_rank_lingers_for_the_notes_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, all_come: bool, at_most: float, at_least: float
) -> None:
    monkeypatch.setattr(outcomes, "RECORDS_WAIT_S", 10.0 if all_come else 0.4)
    write_failure_record(tmp_path, note(0, 1.0))
    began = time.monotonic()
    with ThreadPoolExecutor() as threads:
        lingering = threads.submit(outcomes.wait_for_failure_records, tmp_path, 2)
        if all_come:
            assert not lingering.done()
            write_failure_record(tmp_path, note(1, 2.0))
        lingering.result(60)
    assert at_least <= time.monotonic() - began < at_most


def test_the_last_line_names_the_first_failure() -> None:
    failures = [note(1, 1.0), note(0, 2.0, "RuntimeError", GLOO)]
    result = RunResult([RankExit(1, 1), RankExit(0, 1), RankExit(2, KILL, by_launcher=True)], failures=failures)
    assert report(result, Path("run")) == [
        "Traceback of rank 1",
        "failed as a consequence: rank 0, 2",
        "log: run/logs/rank-00001.log",
        "FAILED: rank 1 (host) raised ValueError: boom",
    ]
    assert report(RunResult([RankExit(0, 0)]), Path("run")) == []


def test_a_rank_speaks_for_itself_where_no_launcher_of_ours_does() -> None:
    assert console_summary(note(1, 1.0)) == "[rank 1@host] FAILED\n[rank 1@host] Traceback of rank 1"
    plain = console_summary(note(1, 1.0, "CheckpointError", "a\nb", True))
    assert plain == "[rank 1@host] FAILED: CheckpointError: a\n[rank 1@host] b"
    assert console_summary(note(0, 1.0, "RuntimeError", GLOO)).count("\n") == 0
