from __future__ import annotations

import json

import pytest

from einsearch_cli.structures import structure_of_terms


def test_samples_in_json_read_back(einsearch) -> None:
    found = einsearch("sample", "--factors", 3, "-n", 4, "--seed", 5, "--format", "jsonl")
    items = [json.loads(line) for line in found.out.splitlines()]
    assert len(items) == 4
    assert all(str(structure_of_terms(item["structure"])) == item["text"] for item in items)
    assert found.err == "4 structures\n"
    assert einsearch("sample", "--factors", 3, "-n", 4, "--seed", 5, "--format", "jsonl").out == found.out


def test_sample_takes_the_filters_of_enumerate(einsearch) -> None:
    words = ("--fix", "XB=0", "--fix", "YA=0", "--max-omega", 0, "--min-psi", 1, "--max-nu", "<1", "--format", "json")
    items = json.loads(einsearch("sample", "-n", 5, *words).out)
    assert len(items) == 5
    assert all((item["omega"], item["psi"], item["kept"]) == ("0", "1", True) for item in items)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--max-omega", "0"), "none has ω = 0"),
        (("--factors", "9"), "--factors 9: whole spaces have 1 to 5 factors"),
        (("-n", "0"), "--number 0: a whole number from 1 to 1,000,000"),
        (("--fix", "AB"), "'AB' is not a bound on a carrier set"),
        (("--fix", "XYA=0"), "XYA"),
        (("--format", "parquet"), "--format parquet is binary: it needs a file"),
    ],
)
def test_bad_requests_are_refused(einsearch, words, message: str) -> None:
    found = einsearch("sample", *words)
    assert (found.code, found.out) == (2, "")
    assert message in found.err
    assert "try: " in found.err
