from __future__ import annotations

import json

import pytest

SPEC = "XA^a XAB^(1-a) YB^e YAB^(1-e) AB^r"


def test_letters_as_exponents_give_formulas(einsearch) -> None:
    text = einsearch("classify", SPEC).out
    assert "ψ  rank       Min(1, -a - e + r + 2)" in text
    assert "where         0 <= a <= 1, 0 <= e <= 1, 0 <= r <= 1" in text
    found = json.loads(einsearch("classify", SPEC, "--format", "json").out)
    assert (found["omega"], found["nu"], found["family"]) == ("0", "Max(-a + r + 1, -e + r + 1)", "btt")
    assert len(json.loads(einsearch("classify", SPEC, "XA^1 AB^r YB^1", "--format", "json").out)) == 2
    assert "Min(1, -a - e + r + 2)" in einsearch("classify", SPEC, "--format", "csv").out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((SPEC, "monarch"), "has letters as exponents and other structures have not"),
        ((SPEC, "--d-in", "64"), "--d-in was given with"),
        (("XA^__import__('os') YA^1",), "is not part of an exponent"),
        (("XA^(a*b) XB YA YB",), "it multiplies a by b"),
        (("XA^a YA",), "sum to a: they must sum to 1 whatever the letters are"),
    ],
)
def test_bad_input(einsearch, words: tuple[str, ...], message: str) -> None:
    found = einsearch("classify", *words)
    assert (found.code, found.out) == (2, "")
    assert message in found.err
    assert "try: " in found.err
