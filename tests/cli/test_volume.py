"""`--quiet` and `--verbose`: what is said on stderr; stdout is the same with each."""

from __future__ import annotations

import re

BENCH = ("bench", "monarch", "--widths", "64", "--tokens", "1", "--modes", "decode", "--rounds", "1")


def test_quiet_says_nothing_but_errors(einsearch) -> None:
    words = ("enumerate", "--grid", "2", "--limit", "3")
    found, quiet, verbose = (einsearch(*words, *more) for more in ((), ("--quiet",), ("--verbose",)))
    assert found.out == quiet.out == verbose.out != ""
    assert found.err == "3 structures\n"
    assert quiet.err == ""
    assert re.fullmatch(r"\d+\.\d s  3 structures\n", verbose.err)
    assert einsearch("--quiet", *words).err == ""
    assert einsearch(*words).err == found.err
    wrong = einsearch("classify", "monrach", "--quiet")
    assert (wrong.code, wrong.err[:7]) == (2, "error: ")


def test_progress_is_said_on_stderr_only_and_not_if_quiet(einsearch) -> None:
    assert "1 of 1" in einsearch(*BENCH).err
    assert einsearch(*BENCH, "--quiet").err == ""
    lines = einsearch(*BENCH, "--verbose").err.splitlines()
    assert len(lines) > 2
    assert all(re.match(r"\d+\.\d s  ", line) for line in lines[:2])


def test_one_of_them_is_given(einsearch) -> None:
    found = einsearch("families", "--quiet", "--verbose")
    assert (found.code, found.out) == (2, "")
    assert found.err == "error: --quiet and --verbose ask for less and for more\n  try: give one of them\n"
    assert einsearch("families", "--normal").code == 2
