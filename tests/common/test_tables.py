"""Tables for people."""

from __future__ import annotations

import pytest

from dcp_runner.common.tables import as_text, table


def test_brackets_are_text_and_numbers_are_right_aligned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    text = as_text(
        table(("name", "bytes"), [("[bold]x", "7"), ("a longer name", "1000")], title="[t]", right=["bytes"])
    )
    lines = text.splitlines()
    assert lines[0].strip() == "[t]"
    assert any("[bold]x" in line and line.rstrip().endswith("   7 │") for line in lines)


def test_a_column_can_be_kept_on_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    rows = [("checkpoint-12345", "words " * 10)]
    assert "checkpoint-12345" in as_text(table(("path", "text"), rows, whole=["path"]))
    assert "checkpoint-12345" not in as_text(table(("path", "text"), rows))
