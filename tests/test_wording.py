"""Code and pages are in plain English and the field's terms: words that we do not use, each with what to write instead.

Whole words are looked for in comments, strings, pages and configuration files, and in the names that code defines,
split at underscores and capitals. `_ALLOWED` has the exceptions.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WORDS = {
    r"told|tells?|telling": "say, report, log, send, know",
    r"wish|wishes|wished": "request; `resume` asks for",
    r"odd": "outlier, minority; unexpected",
    r"nobody|somebody": "no rank, no process, no user; another app, a user",
    r"meant": "intended, expected; named",
    r"left(?!-)": "remaining (jobs that remain); exited (a rank)",
    r"notices?": "stop signal, preemption signal; detect",
    r"(?:re-?)?cuts?|cutting": "shard, sharded, reshard; split",
    r"begun|beginning": "start, started; origin",
    r"lies?|lying": "is (in)",
    r"hurr(?:y|ied|ies)": "now, immediately",
}
"""Of text and of names."""
PHRASES = {
    r"(?<!exit )(?<!failure )(?<!release )notes?(?! that)": "outcome, record, exit note, failure note; message",
    r"in vain": "timed out, failed",
    r"without a word": "without reporting an error",
    r"gave up the ghost": "ended",
    r"stands? there": "exists",
    r"(?:in|by) turns": "alternately, round-robin",
    r"(?:tak(?:e|es|en|ing)|took)(?: \w+){0,3} apart": "flatten, flattened",
    r"folders? of (?:the|its|their|an?) checkpoints": "checkpoint root",
    r"(?:is|are|be|was|were) whole|whole (?:checkpoints?|or not)|wholly": "complete, valid",
}
"""Of text only."""
VARIABLES = {
    "alone": "single, in_process",
    "beside": "temporary",
    "here": "current",
    "made": "result, created; name the thing",
    "mine": "own_copy, own_...",
    "one": "component, bound; name the thing",
    "place": "coordinates, path, box, mesh",
    "turn": "rotation, number",
}
"""Of variables, parameters and fields, as the entire name."""
_ALLOWED = {
    r"[\"'`]beginning[\"'`]": "the key in a manifest's `origin`, of format 1",
    r"[\"']told[\"']": "the key of a job's reason in sweep.json",
    r"\{rank,left\}-": "names of files on disk",
    r"[\"']left[\"']": "the side of a table's column",
    r"\badd_note\b|__notes__": "of Python's exceptions",
}
"""What is removed before looking, with the reason."""

CODE = sorted(
    path for top in ("dcp_runner", "hydra_plugins", "examples", "benchmarks") for path in (ROOT / top).rglob("*.py")
)
TEXTS = sorted(
    path
    for pattern in (
        "*.md",
        "docs/**/*.md",
        "benchmarks/*.md",
        "Makefile",
        ".ci/*",
        "conf/**/*.yaml",
        "examples/**/*.yaml",
    )
    for path in ROOT.glob(pattern)
)
ROOMS = sorted({str(path.parent.relative_to(ROOT)) for path in (*CODE, *TEXTS)})


def in_text(text: str) -> Iterator[tuple[int, str]]:
    """(line, complaint) of each word in a text that we do not use."""
    for number, line in enumerate(text.splitlines(), 1):
        for allowed in _ALLOWED:
            line = re.sub(allowed, "", line)
        for pattern, instead in (WORDS | PHRASES).items():
            for match in re.finditer(rf"(?<![\w-])(?:{pattern})\b(?!-\w)", line, flags=re.I):
                yield number, f"{match[0]!r}: write {instead}"


def names_in(tree: ast.AST) -> Iterator[tuple[int, str, bool]]:
    """(line, name, whether it is a variable) of all that a source defines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.lineno, node.name, False
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg, True
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id, True


def words_of(name: str) -> list[str]:
    """`_told`, `cut_along` and `OddRanks` by their words, in lower case."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower().split("_")


def in_names(source: str) -> Iterator[tuple[int, str]]:
    """(line, complaint) of each name that a source defines and that we do not use."""
    for number, name, is_variable in names_in(ast.parse(source)):
        instead = [text for pattern, text in WORDS.items() for word in words_of(name) if re.fullmatch(pattern, word)]
        if is_variable and name.strip("_") in VARIABLES:
            instead.append(VARIABLES[name.strip("_")])
        if instead:
            yield number, f"the name {name!r}: write {instead[0]}"


def in_code(source: str) -> Iterator[tuple[int, str]]:
    """The same for a source: its comments, its strings and the names that it defines."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT or tokenize.tok_name[token.type] in ("STRING", "FSTRING_MIDDLE"):
            for number, complaint in in_text(token.string):
                yield token.start[0] + number - 1, complaint
    yield from in_names(source)


def complaints(path: Path) -> list[str]:
    found = in_code(path.read_text()) if path.suffix == ".py" else in_text(path.read_text())
    return [f"{path.relative_to(ROOT)}:{number}: {complaint}" for number, complaint in sorted(found)]


@pytest.mark.parametrize("room", ROOMS)
def test_words(room: str) -> None:
    found = [text for path in (*CODE, *TEXTS) if path.parent == ROOT / room for text in complaints(path)]
    assert not found, f"{len(found)} words that we do not use:\n" + "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        "# the rank is told",
        "'''Cut along dp.'''",
        "f'{x} left in the folder'",
        "def odd_ones(): ...",
        "for turn in x: ...",
        "class Wish: ...",
        "def f(mine): ...",
        "'two jobs take the states apart'",
        "'the folder of the checkpoints'",
    ],
)
def test_a_word_would_be_seen(source: str) -> None:
    assert list(in_code(source))


@pytest.mark.parametrize(
    "source",
    [
        "# oddly, the left-hand side; note that a shortcut is untold; clear-cut",
        "path = f'left-{rank:05d}.json'",
        "origin = {'beginning': path}",
        "def place(): ...",
        "'''Its turn comes; an exit note is a record.'''",
    ],
)
def test_plain_english_is_not(source: str) -> None:
    assert not list(in_code(source))


def test_every_exception_is_needed() -> None:
    """An exception that nothing uses is removed."""
    everything = "\n".join(path.read_text() for path in (*CODE, *TEXTS))
    assert not [allowed for allowed in _ALLOWED if not re.search(allowed, everything)]
