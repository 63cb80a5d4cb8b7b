from __future__ import annotations

import json


def test_classify_with_trees(einsearch) -> None:
    found = json.loads(einsearch("classify", "btt:r=d", "--trees", "3/4", "--format", "json").out)
    assert found["trees"] == {"token_exponent": "3/4", "nu": "5/4", "omega": "-1/4", "tree": "x(AB)"}
    assert "for calls of d^3/4 tokens, by the tree x(AB)" in einsearch("classify", "btt:r=d", "--trees", "3/4").out
    assert "trees" not in json.loads(einsearch("classify", "btt:r=d", "--format", "json").out)
    bad = einsearch("classify", "dense", "--trees", "x")
    assert (bad.code, "'x' in '--trees' is not an exponent" in bad.err) == (2, True)
