"""Output at a real terminal: no bar within a table, lines that fit, no control characters from outside."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from einsearch_cli.cli import console
from einsearch_cli.cli.output import table
from tests.cli.terminal import at_terminal

SMALL = ["enumerate", "--grid", "2", "--min-psi", "1", "--max-omega", "0", "--max-nu", "1/2"]


def test_no_bar_is_drawn_into_the_table(tmp_path: Path) -> None:
    code, shown = at_terminal(SMALL, 80, tmp_path)
    assert code == 0
    assert "\x1b" not in shown
    assert shown.splitlines() == [
        "structure                      family    ω    ψ    ν    kept",
        "-----------------------------  --------  ---  ---  ---  ------",
        "XA^1/2 XAB^1/2 YB^1/2 YAB^1/2  monarch   0    1    1/2  yes",
        "XA^1/2 XAB^1/2 YA^1/2 YB^1/2   generic   0    1    1/2  yes",
        "XA^1/2 XB^1/2 YB^1/2 YAB^1/2   generic   0    1    1/2  yes",
        "3 structures",
    ]


def test_a_bar_shows_while_a_file_is_written(tmp_path: Path) -> None:
    code, shown = at_terminal([*SMALL, "--out", "found.jsonl"], 80, tmp_path)
    assert code == 0
    assert "searching" in shown
    assert len((tmp_path / "found.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize("columns", [80, 60])
def test_tables_fit_the_terminal(tmp_path: Path, columns: int) -> None:
    for arguments in (["families"], ["enumerate", "--grid", "2", "--limit", "9"]):
        code, shown = at_terminal(arguments, columns, tmp_path)
        assert code == 0
        assert max(map(len, shown.splitlines())) <= columns
    assert "XA^1/2" in shown


def test_no_row_is_broken_however_narrow_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"name": "two", "number": "12", "source": "A. Author and B. Author 2024"},
        {"name": "x", "number": "3", "source": "none"},
    ]
    for room, least, lines in (
        (
            24, None,
            ["name  number", "----  ------", "two   12", "x     3", "left out, as the",
             "terminal is narrow:", "source; all: --format", "csv"],
        ),
        (
            40, ["number", "name"],
            ["name  source", "----  ----------------------------", "two   A. Author and B. Author 2024", "x     none",
             "left out, as the terminal is narrow:", "number; all: --format csv"],
        ),
        (
            11, None,
            ["name    two", "number  12", "source  A.", "        Aut", "        hor", "        and", "        B.",
             "        Aut", "        hor", "        202", "        4", "", "name    x", "number  3", "source  non",
             "        e"],
        ),
    ):  # fmt: skip
        monkeypatch.setattr(console, "width", lambda room=room: room)
        assert table(rows, least=least).splitlines() == lines
        assert table(rows, "github").startswith("| name   |")
    monkeypatch.setattr(console, "width", lambda: None)
    assert "A. Author and B. Author 2024" in table(rows)


@pytest.mark.parametrize(
    ("words", "important"),
    [
        ("report demo", ["structure", "loss ± 95%", "verdict", "confirmed gain"]),
        ("report demo --by seconds", ["structure", "verdict", "in seconds"]),
        ("report structured_ffn", ["run", "structure", "vs"]),
        ("suggest --d-in 4096 --d-out 11008 --keep 1/8", ["structure", "rank", "decoding", "memory"]),
        ("evidence list", ["study", "source"]),
        ("tasks", ["task", "setting", "default", "meaning"]),
    ],
)
def test_what_a_table_is_read_for_fits_the_terminal(tmp_path: Path, words: str, important: list[str]) -> None:
    for example in ("demo", "structured_ffn"):
        (tmp_path / example).mkdir()
        shutil.copy(f"examples/{example}/results.json", tmp_path / example)
    code, shown = at_terminal(words.split(), 80, tmp_path)
    assert code == 0
    assert max(map(len, shown.splitlines())) <= 80, shown
    titles = [re.split(r"\s\s+", line) for line in shown.splitlines()]
    assert any(set(important) <= set(names) for names in titles), shown


def test_text_is_folded_before_columns_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"number": "12", "long name": "3", "text": "several words to fold here", "more": "abc"},
        {"number": "1", "long name": "4", "text": "few", "more": "d"},
    ]
    for room, lines in (
        (
            34,
            ["number  long  text            more", "        name", "------  ----  --------------  ----",
             "12      3     several words   abc", "              to fold here", "1       4     few             d"],
        ),
        (
            33,
            ["number  long  text", "        name", "------  ----  -------------------",
             "12      3     several words to", "              fold here", "1       4     few",
             "left out, as the terminal is", "narrow: more; all: --format csv"],
        ),
    ):  # fmt: skip
        monkeypatch.setattr(console, "width", lambda room=room: room)
        assert table(rows, least=["more"], folded=["text"]).splitlines() == lines


def test_names_from_files_cannot_act_on_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text('- {name: "\\e[31mred\\u202e", structure: monarch}\n')
    code, shown = at_terminal(["classify", "s.yaml", "--format", "json"], 80, tmp_path)
    assert code == 0
    assert '"name": "\\u001b[31mred\\u202e"' in shown
    for arguments in (
        ["rank", "\x1b[31mred.yaml"],
        ["classify", "\u202egnp.yaml"],
        ["export", "\x9b31m", "--to", "onnx"],
    ):
        code, shown = at_terminal(arguments, 80, tmp_path)
        assert code == 2
        assert not any(control in shown for control in ("\x1b[31m", "\u202e", "\x9b"))


@pytest.mark.parametrize("columns", [80, 60])
def test_sentences_fit_the_terminal(tmp_path: Path, columns: int) -> None:
    for arguments in (
        ["params", "s"],
        ["classify", "XA^1/2 XAB^1/2 YA^1/2 YB^1/2 AB^1/4"],
        ["classify", "XA^a XAB^(1-a) YB^e YAB^(1-e) AB^r"],
        ["classify", "monarch", "btt:r=2"],
        ["draw", "btt:r=2", "--d-in", "4096"],
        ["rank", "monarch", "--widths", "64", "--budget", "1e3"],
    ):
        _, shown = at_terminal(arguments, columns, tmp_path)
        assert max(map(len, shown.splitlines())) <= columns, shown


def test_a_card_in_a_file_is_not_folded(tmp_path: Path) -> None:
    code, _ = at_terminal(["classify", "XA^a XAB^(1-a) YB^e YAB^(1-e) AB^r", "--out", "card.txt"], 50, tmp_path)
    assert code == 0
    assert "a factor may be part of another one, and ω and ν may be smaller" in (tmp_path / "card.txt").read_text()


def test_a_sentence_is_folded_between_words_and_a_table_is_left() -> None:
    text = "error: this is long\n  try: something else\na  table  that  is  wide"
    assert console.wrapped(text, 12).splitlines() == [
        "error: this",
        "is long",
        "  try:",
        "  something",
        "  else",
        "a  table  that  is  wide",
    ]
    assert console.wrapped(text, None) == text
