"""What has become of a job, from its scheduler's word and its ranks' notes; no job is run."""

from __future__ import annotations

import signal

import pytest

from dcp_runner.launch.outcomes import ExitRecord, FailureRecord
from dcp_runner.sweep.job_state import judge, srun_signal_death
from dcp_runner.sweep.record import JobState
from dcp_runner.sweep.scheduler import PENDING, RUNNING

TERM = 128 + signal.SIGTERM
GLOO = "[gloo/transport/tcp/pair.cc:553] Connection closed by peer"
WORDLESS = "no rank left a word"
ENDED_BADLY = ["FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "BOOT_FAIL", "DEADLINE", "REVOKED"]


def left(*codes: int | None) -> dict[int, ExitRecord]:
    """Notes of ranks that left with these codes, one after the other; None: without a note."""
    return {rank: ExitRecord(code, 100.0 + rank) for rank, code in enumerate(codes) if code is not None}


def note(rank: int, time: float, kind: str = "ValueError", message: str = "boom") -> FailureRecord:
    return FailureRecord(rank, "host", 1, kind, message, "Traceback", time)


def consequence(rank: int, time: float) -> FailureRecord:
    return note(rank, time, "RuntimeError", GLOO)


def in_vain(rank: int, time: float) -> FailureRecord:
    return note(rank, time, "RuntimeError", "[gloo/x.cc:81] Timed out waiting 5000ms for recv operation to complete")


@pytest.mark.parametrize("word", sorted(PENDING | RUNNING))
@pytest.mark.parametrize("codes", [(), (0, 0), (1, None), (TERM, TERM)])
def test_what_an_earlier_start_left_does_not_end_a_job(word: str, codes: tuple[int | None, ...]) -> None:
    expected = JobState.waiting if word in PENDING else JobState.running
    assert judge(word, 2, left(*codes), [note(0, 1.0)]) == (expected, "")


@pytest.mark.parametrize("word", ["COMPLETED", None])
@pytest.mark.parametrize("ranks", [1, 3])
def test_done_is_what_all_ranks_left_well(word: str | None, ranks: int) -> None:
    assert judge(word, ranks, left(*[0] * ranks), []) == (JobState.done, "")


@pytest.mark.parametrize("word", ["COMPLETED", None])
@pytest.mark.parametrize(
    ("codes", "said"),
    [
        ((), WORDLESS),
        ((0, None), "rank 1 was terminated without reporting an error"),
        ((None, 0), "rank 0 was terminated without reporting an error"),
        ((0, 1), "rank 1 exited with code 1"),
        ((TERM, TERM), f"rank 0 exited with code {TERM}"),
    ],
)
def test_nothing_less_is_done(word: str | None, codes: tuple[int | None, ...], said: str) -> None:
    state, told = judge(word, 2, left(*codes), [])
    assert state is JobState.failed
    assert told.startswith(said)


@pytest.mark.parametrize("word", ENDED_BADLY)
@pytest.mark.parametrize("codes", [(), (0, 0), (0, None)])
def test_a_scheduler_that_tells_of_a_failure_is_believed(word: str, codes: tuple[int | None, ...]) -> None:
    state, told = judge(word, 2, left(*codes), [])
    assert state is JobState.failed
    assert told.startswith("" if word == "FAILED" else f"{word}: ")


@pytest.mark.parametrize(
    ("word", "said"),
    [
        (None, WORDLESS),
        ("COMPLETED", WORDLESS),
        ("FAILED", WORDLESS),
        ("TIMEOUT", f"TIMEOUT: {WORDLESS}"),
        ("NODE_FAIL", f"NODE_FAIL: {WORDLESS}"),
        ("CANCELLED", ""),
    ],
)
def test_no_rank_left_a_word(word: str | None, said: str) -> None:
    assert judge(word, 4, {}, []) == (JobState.cancelled if word == "CANCELLED" else JobState.failed, said)


@pytest.mark.parametrize(
    ("word", "codes", "outcomes", "said"),
    [
        ("FAILED", (1, None), [consequence(0, 1.0)], "rank 1 was terminated without reporting an error"),
        ("FAILED", (1, None, 1), [consequence(0, 1.0), consequence(2, 2.0)], "rank 1 was terminated without reporting an error"),
        ("OUT_OF_MEMORY", (1, None), [consequence(0, 1.0)], "OUT_OF_MEMORY: rank 1 was terminated without reporting an error"),
        ("FAILED", (None, 1), [note(1, 1.0)], "rank 1 (host) raised ValueError: boom"),
        ("FAILED", (None, 1, None), [note(1, 2.0), consequence(0, 1.0)], "rank 1 (host) raised ValueError: boom"),
        ("FAILED", (1, 1), [note(0, 2.0, message="late"), note(1, 1.0, message="early")], "rank 1 (host) raised ValueError: early"),
        ("FAILED", (1, 1), [consequence(0, 1.0), note(1, 2.0)], "rank 1 (host) raised ValueError: boom"),
        ("FAILED", (1, 1), [consequence(0, 2.0), consequence(1, 1.0)], f"rank 1 (host) raised RuntimeError: {GLOO}"),
        ("FAILED", (1, None), [in_vain(0, 1.0)], "rank 1 did not reach a collective"),
        ("FAILED", (1, 1), [in_vain(0, 1.0), consequence(1, 3.0)], "rank 1 did not reach a collective"),
        ("TIMEOUT", (TERM, TERM), [], f"TIMEOUT: rank 0 exited with code {TERM}"),
        ("NODE_FAIL", (0, None), [], "NODE_FAIL: rank 1 was terminated without reporting an error"),
        ("CANCELLED", (1, None), [note(0, 1.0)], "CANCELLED: rank 0 (host) raised ValueError: boom"),
    ],
)  # fmt: skip
def test_the_first_failure_is_named(
    word: str, codes: tuple[int | None, ...], outcomes: list[FailureRecord], said: str
) -> None:
    state, told = judge(word, len(codes), left(*codes), outcomes)
    assert state is (JobState.cancelled if word == "CANCELLED" else JobState.failed)
    assert told.startswith(said)


@pytest.mark.parametrize("codes", [(TERM, TERM), (0, 0), (1, None)])
def test_that_somebody_wished_it_so_is_reason_enough(codes: tuple[int | None, ...]) -> None:
    assert judge("CANCELLED", 2, left(*codes), [consequence(0, 1.0)]) == (JobState.cancelled, "")


def test_of_several_that_left_badly_the_first_to_leave_is_named() -> None:
    notes = {0: ExitRecord(7, 102.0), 1: ExitRecord(8, 101.0)}
    assert judge("FAILED", 2, notes, []) == (JobState.failed, "rank 1 exited with code 8")


def test_an_expected_error_speaks_for_itself() -> None:
    error = FailureRecord(
        0, "host", 1, "ConfigError", "parallel.dp: 3 does not divide 8", "Traceback", 1.0, expected=True
    )
    assert judge("FAILED", 2, left(1, None), [error]) == (JobState.failed, "parallel.dp: 3 does not divide 8")


KILLED = (1, "rank 1 (n2) died: Killed, says srun")


@pytest.mark.parametrize(
    ("word", "codes", "outcomes", "said"),
    [
        ("FAILED", (1, None), [consequence(0, 1.0)], KILLED[1]),
        ("FAILED", (None, None, None), [], KILLED[1]),
        ("FAILED", (None, None, 1), [consequence(2, 1.0)], KILLED[1]),
        ("OUT_OF_MEMORY", (None, None), [], f"OUT_OF_MEMORY: {KILLED[1]}"),
        ("FAILED", (1, None), [note(0, 1.0)], "rank 0 (host) raised ValueError: boom"),
        ("FAILED", (None, 1), [consequence(1, 1.0)], "rank 0 was terminated without reporting an error"),
    ],
)
def test_srun_has_seen_who_died_first(
    word: str, codes: tuple[int | None, ...], outcomes: list[FailureRecord], said: str
) -> None:
    """Unless that rank has left by itself, or another one has an error of its own."""
    told = judge(word, len(codes), left(*codes), outcomes, KILLED)[1]
    assert told.startswith(said)


@pytest.mark.parametrize("word", ["COMPLETED", None])
def test_what_srun_has_seen_of_an_earlier_start_is_no_failure(word: str | None) -> None:
    assert judge(word, 2, left(0, 0), [], KILLED) == (JobState.done, "")


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
        ("srun: error: n2: tasks 4-7: Killed", (4, "rank 4 (n2) died: Killed, says srun")),
        ("srun: error: n2: tasks 4,6-7: Killed", (4, "rank 4 (n2) died: Killed, says srun")),
        (
            "srun: error: n2: task 12: Segmentation fault (core dumped)\n",
            (12, "rank 12 (n2) died: Segmentation fault (core dumped), says srun"),
        ),
    ],
)
def test_what_srun_prints(printed: str, expected: tuple[int, str] | None) -> None:
    assert srun_signal_death(printed) == expected


@pytest.mark.parametrize("seen", [None, (0, "rank 0 (n1) died: Terminated, says srun")])
def test_a_rank_that_left_by_itself_is_named_if_srun_has_ended_the_others(seen: tuple[int, str] | None) -> None:
    assert judge("FAILED", 2, left(None, 7), [], seen)[1] == "rank 1 exited with code 7"


@pytest.mark.parametrize("word", ["FAILED", "TIMEOUT"])
def test_there_is_always_a_reason(word: str) -> None:
    told = judge(word, 2, left(0, 0), [])[1]
    assert told and not told.endswith(": ")
