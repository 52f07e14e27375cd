"""Which rank failed first: records and exit codes, judged without any process."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from dcp_runner.launch.first_failure import console_summary, first_failure, report
from dcp_runner.launch.outcomes import FailureRecord, RankExit, RunResult

KILL, ABRT = -signal.SIGKILL, -signal.SIGABRT
GLOO = "[gloo/transport/tcp/pair.cc:553] Connection closed by peer"
TIMEOUT = "[gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 5000ms for recv operation to complete"
ABSENT = (
    "did not reach a collective (hung or stopped); rank 0 (host) timed out waiting for it: Timed out waiting 5000ms"
)


def record(
    rank: int, time: float, kind: str = "ValueError", message: str = "boom", expected: bool = False
) -> FailureRecord:
    return FailureRecord(rank, "host", 1, kind, message, f"Traceback of rank {rank}", time, expected)


@pytest.mark.parametrize(
    ("exits", "failures", "rank", "said"),
    [
        ([RankExit(0, 0), RankExit(1, 0)], [], None, ""),
        ([RankExit(0, 1), RankExit(1, 1)], [record(0, 2.0), record(1, 1.0)], 1, "raised ValueError: boom"),
        ([RankExit(0, 1), RankExit(1, 1)], [record(0, 1.0, "RuntimeError", GLOO), record(1, 2.0)], 1, "ValueError"),
        ([RankExit(0, 1), RankExit(1, 1)], [record(0, 1.0, "DistBackendError", "x"), record(1, 2.0)], 1, "ValueError"),
        ([RankExit(0, 1), RankExit(1, KILL)], [record(0, 1.0, "RuntimeError", GLOO)], 1, "killed by SIGKILL"),
        ([RankExit(0, 1), RankExit(1, KILL)], [record(0, 1.0)], 1, "killed by SIGKILL"),
        ([RankExit(1, KILL), RankExit(0, KILL, by_launcher=True)], [], 1, "killed by SIGKILL"),
        ([RankExit(1, 1), RankExit(0, KILL, by_launcher=True)], [record(1, 1.0)], 1, "raised ValueError"),
        ([RankExit(1, ABRT), RankExit(0, 1)], [record(1, 2.0), record(0, 1.0, "RuntimeError", GLOO)], 1, "ValueError"),
        ([RankExit(0, 1), RankExit(1, ABRT)], [record(0, 1.0)], 0, "ValueError"),
        ([RankExit(0, 1), RankExit(1, ABRT)], [record(0, 1.0, "RuntimeError", GLOO)], 1, "killed by SIGABRT"),
        ([RankExit(1, 7), RankExit(0, 1)], [record(0, 1.0, "RuntimeError", GLOO)], 1, "exited with code 7"),
        ([RankExit(1, 7), RankExit(0, 1)], [record(0, 1.0)], 0, "ValueError"),
        (
            [RankExit(0, 1), RankExit(1, 1)],
            [record(0, 2.0, "RuntimeError", GLOO), record(1, 1.0, "RuntimeError", GLOO)],
            1,
            GLOO,
        ),
        ([RankExit(0, 1), RankExit(1, KILL, True)], [record(0, 1.0, "RuntimeError", TIMEOUT)], 1, f"rank 1 {ABSENT}"),
        (
            [RankExit(0, 1), RankExit(1, 1)],
            [record(0, 1.0, "E", TIMEOUT), record(1, 3.0, "E", GLOO)],
            1,
            "rank 1 did not reach a collective",
        ),
        (
            [RankExit(0, 1), RankExit(1, 1)],
            [record(0, 1.0, "E", TIMEOUT), record(1, 1.1, "E", GLOO)],
            0,
            "raised E: [gloo",
        ),
        ([RankExit(0, 1), RankExit(1, 1)], [record(0, 1.0, "E", TIMEOUT), record(1, 9.0)], 1, "raised ValueError"),
        (
            [RankExit(0, 1), RankExit(1, 1)],
            [record(0, 1.0, "E", TIMEOUT), record(1, 0.9, "E", TIMEOUT)],
            1,
            "raised E: [gloo",
        ),
        (
            [RankExit(0, 1), *(RankExit(r, KILL, True) for r in (3, 1))],
            [record(0, 1.0, "E", TIMEOUT)],
            1,
            "rank 1, 3 did not",
        ),
        ([RankExit(0, KILL, by_launcher=True)], [], 0, "was killed by the launcher"),
        ([RankExit(0, -99)], [], 0, "killed by signal 99"),
    ],
)
def test_the_first_failure(exits: list[RankExit], failures: list[FailureRecord], rank: int | None, said: str) -> None:
    first = first_failure(exits, failures)
    assert (first and first.rank) == rank
    assert first is None or said in first.headline


def test_the_last_line_names_the_first_failure() -> None:
    failures = [record(1, 1.0), record(0, 2.0, "RuntimeError", GLOO)]
    result = RunResult([RankExit(1, 1), RankExit(0, 1), RankExit(2, KILL, by_launcher=True)], failures=failures)
    assert report(result, Path("run")) == [
        "Traceback of rank 1",
        "ended because of it: rank 0, 2",
        "log: run/logs/rank-00001.log",
        "FAILED: rank 1 (host) raised ValueError: boom",
    ]
    assert report(RunResult([RankExit(0, 0)]), Path("run")) == []


def test_a_rank_speaks_for_itself_where_no_launcher_of_ours_does() -> None:
    assert console_summary(record(1, 1.0)) == "[rank 1@host] FAILED\n[rank 1@host] Traceback of rank 1"
    plain = console_summary(record(1, 1.0, "CheckpointError", "a\nb", True))
    assert plain == "[rank 1@host] FAILED: CheckpointError: a\n[rank 1@host] b"
    assert console_summary(record(0, 1.0, "RuntimeError", GLOO)).count("\n") == 0
