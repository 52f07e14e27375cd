"""The state of a job, from what its scheduler reports and its ranks have recorded; no job is run."""

from __future__ import annotations

import signal

import pytest

from dcp_runner.launch.first_failure import first_failure
from dcp_runner.launch.outcomes import ExitRecord, FailureRecord, RankExit
from dcp_runner.sweep.job_state import judge, srun_signal_death
from dcp_runner.sweep.record import JobState
from dcp_runner.sweep.scheduler import PENDING, RUNNING

TERM = 128 + signal.SIGTERM
GLOO = "[gloo/transport/tcp/pair.cc:553] Connection closed by peer"
NO_OUTCOME = "no rank reported an outcome"
ABSENT = "rank 1 did not "
ENDED_BADLY = ["FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "BOOT_FAIL", "DEADLINE", "REVOKED"]


def exits(*codes: int | None) -> dict[int, ExitRecord]:
    """Records of ranks that exited with these codes, one after the other; None: nothing recorded."""
    return {rank: ExitRecord(code, 100.0 + rank) for rank, code in enumerate(codes) if code is not None}


def failure(rank: int, time: float, kind: str = "ValueError", message: str = "boom") -> FailureRecord:
    return FailureRecord(rank, "host", 1, kind, message, "Traceback", time)


def consequence(rank: int, time: float) -> FailureRecord:
    return failure(rank, time, "RuntimeError", GLOO)


def died(rank: int) -> str:
    """The headline of a rank that recorded nothing."""
    return headline(RankExit(rank, -signal.SIGKILL, seen=False))


def exited(rank: int, code: int) -> str:
    return headline(RankExit(rank, code))


def headline(exit: RankExit) -> str:
    failed = first_failure([exit], [])
    assert failed
    return failed.headline


def timed_out(rank: int, time: float) -> FailureRecord:
    return failure(rank, time, "RuntimeError", "[gloo/x.cc:81] Timed out waiting 5000ms for recv operation to complete")


@pytest.mark.parametrize("reported", sorted(PENDING | RUNNING))
@pytest.mark.parametrize("codes", [(), (0, 0), (1, None), (TERM, TERM)])
def test_the_records_of_an_earlier_start_do_not_end_a_job(reported: str, codes: tuple[int | None, ...]) -> None:
    expected = JobState.waiting if reported in PENDING else JobState.running
    assert judge(reported, 2, exits(*codes), [failure(0, 1.0)]) == (expected, "")


@pytest.mark.parametrize("reported", ["COMPLETED", None])
@pytest.mark.parametrize("ranks", [1, 3])
def test_a_job_is_done_when_all_ranks_exited_with_0(reported: str | None, ranks: int) -> None:
    assert judge(reported, ranks, exits(*[0] * ranks), []) == (JobState.done, "")


@pytest.mark.parametrize("reported", ["COMPLETED", None])
@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ((), NO_OUTCOME),
        ((0, None), died(1)),
        ((None, 0), died(0)),
        ((0, 1), exited(1, 1)),
        ((TERM, TERM), exited(0, TERM)),
    ],
)
def test_nothing_less_is_done(reported: str | None, codes: tuple[int | None, ...], expected: str) -> None:
    state, reason = judge(reported, 2, exits(*codes), [])
    assert state is JobState.failed
    assert reason.startswith(expected)


@pytest.mark.parametrize("reported", ENDED_BADLY)
@pytest.mark.parametrize("codes", [(), (0, 0), (0, None)])
def test_a_scheduler_that_tells_of_a_failure_is_believed(reported: str, codes: tuple[int | None, ...]) -> None:
    state, reason = judge(reported, 2, exits(*codes), [])
    assert state is JobState.failed
    assert reason.startswith("" if reported == "FAILED" else f"{reported}: ")


@pytest.mark.parametrize(
    ("reported", "expected"),
    [
        (None, NO_OUTCOME),
        ("COMPLETED", NO_OUTCOME),
        ("FAILED", NO_OUTCOME),
        ("TIMEOUT", f"TIMEOUT: {NO_OUTCOME}"),
        ("NODE_FAIL", f"NODE_FAIL: {NO_OUTCOME}"),
        ("CANCELLED", ""),
    ],
)
def test_no_rank_recorded_anything(reported: str | None, expected: str) -> None:
    assert judge(reported, 4, {}, []) == (JobState.cancelled if reported == "CANCELLED" else JobState.failed, expected)


@pytest.mark.parametrize(
    ("reported", "codes", "outcomes", "expected"),
    [
        ("FAILED", (1, None), [consequence(0, 1.0)], died(1)),
        ("FAILED", (1, None, 1), [consequence(0, 1.0), consequence(2, 2.0)], died(1)),
        ("OUT_OF_MEMORY", (1, None), [consequence(0, 1.0)], f"OUT_OF_MEMORY: {died(1)}"),
        ("FAILED", (None, 1), [failure(1, 1.0)], "rank 1 (host) raised ValueError: boom"),
        ("FAILED", (None, 1, None), [failure(1, 2.0), consequence(0, 1.0)], "rank 1 (host) raised ValueError: boom"),
        ("FAILED", (1, 1), [failure(0, 2.0, message="late"), failure(1, 1.0, message="early")], "rank 1 (host) raised ValueError: early"),
        ("FAILED", (1, 1), [consequence(0, 1.0), failure(1, 2.0)], "rank 1 (host) raised ValueError: boom"),
        ("FAILED", (1, 1), [consequence(0, 2.0), consequence(1, 1.0)], f"rank 1 (host) raised RuntimeError: {GLOO}"),
        ("FAILED", (1, None), [timed_out(0, 1.0)], ABSENT),
        ("FAILED", (1, 1), [timed_out(0, 1.0), consequence(1, 3.0)], ABSENT),
        ("TIMEOUT", (TERM, TERM), [], f"TIMEOUT: {exited(0, TERM)}"),
        ("NODE_FAIL", (0, None), [], f"NODE_FAIL: {died(1)}"),
        ("CANCELLED", (1, None), [failure(0, 1.0)], "CANCELLED: rank 0 (host) raised ValueError: boom"),
    ],
)  # fmt: skip
def test_the_first_failure_is_named(
    reported: str, codes: tuple[int | None, ...], outcomes: list[FailureRecord], expected: str
) -> None:
    state, reason = judge(reported, len(codes), exits(*codes), outcomes)
    assert state is (JobState.cancelled if reported == "CANCELLED" else JobState.failed)
    assert reason.startswith(expected)


@pytest.mark.parametrize("codes", [(TERM, TERM), (0, 0), (1, None)])
def test_a_cancelled_job_needs_no_reason(codes: tuple[int | None, ...]) -> None:
    assert judge("CANCELLED", 2, exits(*codes), [consequence(0, 1.0)]) == (JobState.cancelled, "")


def test_of_several_error_codes_the_first_is_named() -> None:
    recorded = {0: ExitRecord(7, 102.0), 1: ExitRecord(8, 101.0)}
    assert judge("FAILED", 2, recorded, []) == (JobState.failed, exited(1, 8))


def test_an_expected_error_speaks_for_itself() -> None:
    error = FailureRecord(
        0, "host", 1, "ConfigError", "parallel.dp: 3 does not divide 8", "Traceback", 1.0, expected=True
    )
    assert judge("FAILED", 2, exits(1, None), [error]) == (JobState.failed, "parallel.dp: 3 does not divide 8")


KILLED = (1, "rank 1 (n2) died: Killed (reported by srun)")


@pytest.mark.parametrize(
    ("reported", "codes", "outcomes", "expected"),
    [
        ("FAILED", (1, None), [consequence(0, 1.0)], KILLED[1]),
        ("FAILED", (None, None, None), [], KILLED[1]),
        ("FAILED", (None, None, 1), [consequence(2, 1.0)], KILLED[1]),
        ("OUT_OF_MEMORY", (None, None), [], f"OUT_OF_MEMORY: {KILLED[1]}"),
        ("FAILED", (1, None), [failure(0, 1.0)], "rank 0 (host) raised ValueError: boom"),
        ("FAILED", (None, 1), [consequence(1, 1.0)], died(0)),
    ],
)
def test_srun_has_seen_who_died_first(
    reported: str, codes: tuple[int | None, ...], outcomes: list[FailureRecord], expected: str
) -> None:
    """Unless that rank exited by itself, or another one has an error of its own."""
    reason = judge(reported, len(codes), exits(*codes), outcomes, KILLED)[1]
    assert reason.startswith(expected)


@pytest.mark.parametrize("reported", ["COMPLETED", None])
def test_what_srun_has_seen_of_an_earlier_start_is_no_failure(reported: str | None) -> None:
    assert judge(reported, 2, exits(0, 0), [], KILLED) == (JobState.done, "")


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        ("", None),
        ("rank 0: srun: error: n1: task 1: Killed\n", None),
        ("srun: error: n1: task 1: Exited with exit code 7\n", None),
        ("srun: error: n1: tasks 0-3: Exited with exit code 1\n", None),
        ("srun: Job step aborted: Waiting up to 32 seconds for job step to finish.\n", None),
        ("srun: error: n2: task 1: Killed\n", KILLED),
        ("noise\nsrun: error: n2: task 1: Killed\nsrun: error: n1: task 0: Terminated\n", KILLED),
        ("srun: error: n1: task 0: Exited with exit code 1\nsrun: error: n2: task 1: Killed\n", KILLED),
        ("srun: error: n2: tasks 4-7: Killed", (4, "rank 4 (n2) died: Killed (reported by srun)")),
        ("srun: error: n2: tasks 4,6-7: Killed", (4, "rank 4 (n2) died: Killed (reported by srun)")),
        (
            "srun: error: n2: task 12: Segmentation fault (core dumped)\n",
            (12, "rank 12 (n2) died: Segmentation fault (core dumped) (reported by srun)"),
        ),
    ],
)
def test_what_srun_prints(printed: str, expected: tuple[int, str] | None) -> None:
    assert srun_signal_death(printed) == expected


@pytest.mark.parametrize("seen", [None, (0, "rank 0 (n1) died: Terminated (reported by srun)")])
def test_a_rank_that_exited_by_itself_is_named_if_srun_has_killed_the_others(seen: tuple[int, str] | None) -> None:
    assert judge("FAILED", 2, exits(None, 7), [], seen)[1] == exited(1, 7)


@pytest.mark.parametrize("reported", ["FAILED", "TIMEOUT"])
def test_there_is_always_a_reason(reported: str) -> None:
    reason = judge(reported, 2, exits(0, 0), [])[1]
    assert reason and not reason.endswith(": ")
