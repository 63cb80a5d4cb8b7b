from __future__ import annotations

import json
import time

import pytest


@pytest.mark.parametrize(
    ("words", "sizes", "rank"),
    [
        (("ab,ace,bde->cde", "--sizes", "a=3,b=5,c=2,d=3,e=2"), {"XA": 3, "XB": 5, "YA": 2, "YB": 3, "YAB": 2}, 11),
        (("abc,adf,bce,cf->def", "--sizes", "a=5,b=2,c=3,d=4,e=4,f=2"), None, 26),
        (("XA=2 XB=2 XAB YA=3 YB", "--d-in", 8, "--d-out", 9), {"XA": 2, "XB": 2, "XAB": 2, "YA": 3, "YB": 3}, 7),
    ],
)
def test_ranks_below_the_bound_are_shown_and_explained(einsearch, words, sizes, rank: int) -> None:
    item = json.loads(einsearch("classify", *words, "--rank", "--format", "json").out)
    assert sizes is None or item["sizes"] == sizes
    assert (item["rank"], item["rank_method"]) == (rank, "exact mod p")
    assert item["rank_certificate"]["prime"] == 2147483647
    assert item["rank_bound"] > rank
    text = einsearch("classify", *words, "--rank", "--seed", 3).out
    assert f"{rank} exact mod 2147483647, seed 3; at most {item['rank_bound']}, by the cut {item['cut']}" in text
    assert f"the generic rank {rank} is below the bound {item['rank_bound']}: the cut {item['cut']}" in text


def test_without_rank_the_fields_are_null(einsearch) -> None:
    item = json.loads(einsearch("classify", "monarch", "--format", "json").out)
    assert (item["rank"], item["rank_method"], item["rank_certificate"]) == (None, None, None)


@pytest.mark.parametrize(
    ("words", "rank"),
    [
        (("monarch", "--d-in", 1), 1),
        (("monarch", "--d-in", 257, "--d-out", 1031), 257),
        (("low-rank:r=64", "--d-in", 2**40), 64),
        (("monarch", "--d-in", 2**40), 2**40),
    ],
)
def test_unusual_dimensions(einsearch, words, rank: int) -> None:
    assert json.loads(einsearch("classify", *words, "--rank", "--format", "json").out)["rank"] == rank


def test_too_large_matrices_are_refused_by_name_at_once(einsearch) -> None:
    started_s = time.perf_counter()
    found = einsearch("classify", "XA^1/4 XB^1/2 XAB^1/4 YA^1/2 YB^1/2", "--d-in", 2**40 - 4, "--rank")
    assert time.perf_counter() - started_s < 5
    assert found.code == 2
    assert "decomposed in float64; the rank is from" in found.err
    assert "try: choose smaller dimensions, or powers of two" in found.err
    assert "--seed -1: a whole number from 0 to" in einsearch("classify", "monarch", "--rank", "--seed", -1).err
