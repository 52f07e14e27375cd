"""metrics.jsonl after a kill: a torn last line swallows nothing, and no reader stumbles over it."""

from __future__ import annotations

from pathlib import Path

import pytest
from runs import run

from dcp_runner.common.metrics_file import last_metrics, open_to_append, read_entries, read_metrics
from dcp_runner.run.verify_resume import _lines
from dcp_runner.train.trackers import run_id_and_last_step

WHOLE = b'{"step": 1, "loss": 2.5, "attempt": 1}\n'


@pytest.mark.parametrize(
    ("before", "kept"),
    [
        pytest.param(None, 0, id="no file"),
        pytest.param(b"", 0, id="empty"),
        pytest.param(WHOLE, 1, id="whole"),
        pytest.param(WHOLE[:-1], 1, id="only the end of the line is missing"),
        pytest.param(WHOLE + b'{"step": 2, "lo', 1, id="torn"),
        pytest.param(WHOLE + b"5", 1, id="torn to a number"),
        pytest.param(WHOLE + b'{"event": "\xc3', 1, id="torn within a character"),
        pytest.param(WHOLE + b"\0" * 512, 1, id="zeros after a power failure"),
    ],
)
def test_the_next_line_stands_by_itself(tmp_path: Path, before: bytes | None, kept: int) -> None:
    file = tmp_path / "metrics.jsonl"
    if before is not None:
        file.write_bytes(before)
    assert [entry["step"] for entry in read_metrics(file)] == [1][:kept]
    for step in (7, 8):
        with open_to_append(file) as lines:
            lines.write(f'{{"step": {step}, "loss": 1.5, "attempt": 2}}\n')
    assert [entry["step"] for entry in read_metrics(file)] == [*[1][:kept], 7, 8]
    assert b"\n\n" not in file.read_bytes()
    assert last_metrics(file) == {"step": 8, "loss": 1.5} and len(_lines(tmp_path, 1)) == 2


def test_a_run_after_a_torn_line(tmp_path: Path) -> None:
    """Its first line tells what it resumed from; its trackers learn which steps they have."""
    assert run(tmp_path, 1, trainer__max_steps=4) == [0]
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "loss": 3.1, "lr"')
    assert run(tmp_path, 1, trainer__max_steps=5, checkpoint__at_end=False) == [0]
    last = [entry for entry in read_entries(tmp_path / "metrics.jsonl") if entry["attempt"] == 2]
    assert last[0]["event"] == "resumed" and [entry["step"] for entry in last if "loss" in entry] == [5]
    (tmp_path / "tracker_id").write_text("x")
    assert run_id_and_last_step(tmp_path) == ("x", 5)
