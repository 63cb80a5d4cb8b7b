from __future__ import annotations

import json
import random
import time

import pytest

from benchmarks.rank import Shortfalls, shortfalls
from einsearch_cli.structures import parse_structure, read_structure
from einsearch_cli.taxonomy import classify
from einsearch_cli.taxonomy.classification import RANK_FIELDS
from tests.structures.networks import spec_of

TRAPS = [
    ({"XA": 3, "XB": 5, "YA": 2, "YB": 3, "YAB": 2}, 12, 11, "2 slices along YAB have rank 6 each and row spaces"),
    ({"XA": 5, "XB": 2, "XBC": 3, "YA": 4, "YB": 4, "YAC": 2}, 30, 26, "rank 10 each and column spaces"),
    ({"XA": 2, "XB": 2, "XAB": 2, "YA": 3, "YB": 3}, 8, 7, "2 slices along XAB have rank 4 each and column spaces"),
]


@pytest.mark.parametrize(("sizes", "bound", "rank", "why"), TRAPS)
@pytest.mark.parametrize("seed", [0, 17])
def test_ranks_below_the_smallest_cut(sizes: dict[str, int], bound: int, rank: int, why: str, seed: int) -> None:
    spec = spec_of(sizes)
    found = classify(spec.structure, spec.d_in or 0, spec.d_out or 0, rank_seed=seed)
    assert sorted(size for _, size in found.sizes) == sorted(sizes.values())
    assert (found.rank_bound, found.rank) == (bound, rank)
    assert found.why_below_bound is not None
    assert f"the generic rank {rank} is below the bound {bound}: the cut {found.cut} would let" in found.why_below_bound
    assert why in found.why_below_bound
    assert f"together they span {rank} dimensions" in found.why_below_bound


def test_json_certifies_the_rank_only_where_it_was_asked_for() -> None:
    named = read_structure("abc,acd,bce->de; a=2,b=2,c=2,d=3,e=3")
    document = json.loads(json.dumps(classify(named.structure, 8, 9, rank_seed=5).to_json()))
    assert (document["rank"], document["rank_bound"], document["rank_method"]) == (7, 8, "exact mod p")
    certificate = document["rank_certificate"]
    assert (certificate["prime"], certificate["seed"], certificate["trials"]) == (2147483647, 5, 2)
    assert 0 < certificate["chance_of_more"] < 1e-15
    assert "the generic rank 7 is below the bound 8" in document["why_below_bound"]
    reached = classify(parse_structure("monarch"), 64, 64, rank_seed=0).to_json()
    assert (reached["rank"], reached["why_below_bound"]) == (64, None)
    assert reached["rank_certificate"]["chance_of_more"] == 0
    unasked = classify(parse_structure("monarch"), 64, 64).to_json()
    assert {name: unasked[name] for name in RANK_FIELDS} == dict.fromkeys(RANK_FIELDS)


@pytest.mark.parametrize("text", ["monarch", "btt:r=4", "dense", "XA^1/2 XB^1/2 YA^1/4 YC^3/4 BC^1/2 ABC^1/4"])
def test_a_rank_of_a_1024_matrix_takes_less_than_five_seconds(text: str) -> None:
    started_s = time.perf_counter()
    found = classify(parse_structure(text), rank_seed=0)
    assert time.perf_counter() - started_s < 5
    assert found.rank == found.rank_bound


@pytest.mark.parametrize("factors", [2, 3])
def test_no_rank_is_above_the_smallest_cut(factors: int) -> None:
    """`python benchmarks/rank.py --networks 100000` for more of them."""
    found = shortfalls(random.Random(factors), factors, networks=400)
    assert isinstance(found, Shortfalls)
    assert found.above == 0
    assert found.networks == 400
    assert found.below <= 8
