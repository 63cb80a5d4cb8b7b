"""Pages of `--help` fit any width, break no word, and show every default as the code has it."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from itertools import pairwise
from typing import Any

import pytest
from typer.core import TyperArgument

from einsearch_cli.cli.commands import SUMMARIES, load_command
from einsearch_cli.cli.help_page import choices_of, default_text
from einsearch_cli.cli.main import main
from einsearch_cli.models.transformer import PRESETS

WIDTHS = (40, 80, 120)
WITHOUT_DEFAULT = {
    "--allow-block-diagonal", "--at", "--calibrate", "--csv", "--engine-option", "--evidence", "--experts", "--fix",
    "--gpu", "--images", "--limit", "--set", "--sizes", "--skip", "--text", "--time", "--top", "--top-k",
    "--top-p", "--total-flops", "--trees", "project --keep", "suggest --flops", "suggest --params",
}  # fmt: skip
"""Without these nothing is done: there is no value to show."""


def page(monkeypatch: pytest.MonkeyPatch, name: str | None, columns: int) -> str:
    monkeypatch.setenv("COLUMNS", str(columns))
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        assert main([*([] if name is None else [name]), "--help"]) == 0
    return shown.getvalue()


def words(text: str) -> list[str]:
    """All words, with folded command lines put together again."""
    return text.replace(" \\\n", "\n").split()


@pytest.mark.parametrize("name", [None, *SUMMARIES])
def test_help_fits_every_width_and_breaks_no_word(monkeypatch: pytest.MonkeyPatch, name: str | None) -> None:
    pages = {columns: page(monkeypatch, name, columns) for columns in (*WIDTHS, 1000)}
    for columns in WIDTHS:
        assert max(map(len, pages[columns].splitlines())) <= columns
        assert words(pages[columns]) == words(pages[1000])
    prose = [line for line in pages[80].splitlines() if line and not line.startswith(" ")]
    for line, following in pairwise(prose):  # no line is left short in the middle of a paragraph
        if f"{line}\n{following}" in pages[80] and line != line.rstrip(".:") + ".":
            assert len(line) + 1 + len(following.split()[0]) > 80 or line in ("Commands", "Arguments", "Options")


@pytest.mark.parametrize("name", SUMMARIES)
def test_every_option_says_what_it_is_and_what_it_is_without(name: str) -> None:
    for param in load_command(name).params:
        check(name, param)


def check(name: str, param: Any) -> None:
    assert re.fullmatch(r"\S.*[^.:;]\.( .*\.)?", param.help, re.DOTALL), param.help
    assert "if not given" not in param.help
    assert "default" not in param.help
    if not isinstance(param, TyperArgument) and not param.is_flag:
        assert bool(default_text(param)) == (
            not param.required and WITHOUT_DEFAULT.isdisjoint({param.opts[-1], f"{name} {param.opts[-1]}"})
        )


def test_defaults_of_studies_are_those_of_the_spec() -> None:
    from einsearch_cli.search.explore_spec import ExploreSpec
    from einsearch_cli.search.spec import StudySpec

    renamed = {"budget": "budget_flops"}
    compared = 0
    for name, specs in (("rank", [StudySpec]), ("search", [StudySpec, ExploreSpec])):
        for param in load_command(name).params:
            field = renamed.get(param.name, param.name)
            default = next((spec.model_fields[field].default for spec in specs if field in spec.model_fields), None)
            if default is None or param.default is not None:
                continue
            shown = default_text(param)
            if isinstance(default, bool):
                assert (shown == "on") == default, param.name
            elif isinstance(default, float):
                assert float(shown) == default
            else:
                assert shown == str(default), param.name
            compared += 1
    assert compared == 25


def test_defaults_of_other_commands_are_those_of_the_code() -> None:
    from einsearch_cli.models.transformer import UTILISATION
    from einsearch_cli.speed import WIDTHS as BENCH_WIDTHS
    from einsearch_cli.speed.cases import DEFAULT_TOKENS

    shown = {
        f"{name} {param.name}": default_text(param)
        for name in ("bench", "params")
        for param in load_command(name).params
    }
    assert shown["bench widths"] == ",".join(map(str, BENCH_WIDTHS))
    assert set(re.findall(r"[\d,]+\d", shown["bench tokens"])) == {
        ",".join(map(str, each)) for each in DEFAULT_TOKENS.values()
    }
    assert shown["params utilisation"] == str(UTILISATION)


def test_a_redirection_stays_with_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    for columns in (40, 60, 80):
        assert " < prompt.txt\n" in page(monkeypatch, "generate", columns)


def test_choices_are_listed_in_one_way(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = " ".join(page(monkeypatch, "rank", 1000).split())
    for choices in (
        "table, json, jsonl, csv, yaml, markdown",
        "tuned, fixed",
        "float32, bfloat16",
        "flops, total, seconds",
    ):
        assert f"[one of {choices}; default: {choices.split(', ')[0]}]" in shown
    presets = next(param for param in load_command("params").params if param.name == "preset_name")
    assert choices_of(presets) == tuple(PRESETS)


def test_a_folded_example_is_the_same_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def commands(columns: int) -> list[list[str]]:
        text = page(monkeypatch, "classify", columns).partition("Examples:")[2].partition("Arguments")[0]
        return [shlex.split(line) for line in text.replace("\\\n", " ").split("\n\n") if line.strip()]

    assert commands(40) == commands(1000)
    assert ["einsearch", "classify", "XA^a XAB^(1-a) YB^e YAB^(1-e) AB^r"] in commands(40)
