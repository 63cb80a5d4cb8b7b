from __future__ import annotations

import json
from fractions import Fraction

import pytest

from einsearch_cli.structures import parse_structure
from einsearch_cli.taxonomy import EVERYTHING, Bounds, Space, classify, count, survivors, taxonomy_of


def test_json_has_what_programs_rely_on() -> None:
    document = json.loads(json.dumps(classify(parse_structure("tt:r=d^1/4"), 1024, 512).to_json()))
    assert document["structure"] == {"XA": "1/2", "XB": "1/2", "YA": "1/2", "YB": "1/2", "AB": "1/4"}
    assert document["theta"] == ["1/2", "1/2", "0", "1/2", "1/2", "0", "1/4"]
    assert (document["family"], document["omega"], document["psi"], document["nu"]) == ("tt", "1/2", "1", "3/4")
    assert document["sizes"] == {"XA": 32, "XB": 32, "YA": 16, "YB": 32, "AB": 5}
    assert document["params"] == 32 * 16 * 5 + 32 * 32 * 5
    assert document["dense_params"] == 1024 * 512
    assert document["dense_flops_per_token"] == 2 * 1024 * 512
    assert document["einsum"] == "...ab,ace,bde->...cd"
    assert document["kept"] is False
    assert document["reasons"] == ["FLOPs per parameter grow as d^1/2 (ω > 0): parameters are shared"]


def test_theta_is_null_where_sizes_are_fixed() -> None:
    assert classify(parse_structure("monarch:blocks=4")).to_json()["theta"] is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("low-rank", "rank grows as d^1/2 (ψ < 1), limited by the cut X A | B Y through AB"),
        ("(1/2|0|1/2|0|1/2|1/2|3/4)", "FLOPs grow as d^9/4 (ν = 5/4 > 1), dense ones as d^2"),
    ],
)
def test_reasons(text: str, reason: str) -> None:
    found = classify(parse_structure(text))
    assert not found.kept
    assert reason in found.reasons


def test_bounds_decide_what_is_kept() -> None:
    low_rank = parse_structure("low-rank")
    assert classify(low_rank, bounds=Bounds(min_psi=Fraction(1, 2))).kept
    assert not classify(parse_structure("dense"), bounds=Bounds(max_nu=Fraction(1, 2))).kept


@pytest.mark.parametrize("grid", [2, 3, 4])
def test_survivors_are_all_within_bounds_and_nothing_else_is_left_out(grid: int) -> None:
    everything = survivors(Space(grid))
    assert len(everything) == len(set(everything)) == count(Space(grid)).irreducible + 1
    bounds = Bounds(max_nu=Fraction(3, 4))
    kept = survivors(Space(grid, bounds=bounds))
    assert set(kept) == {s for s in everything if classify(s, bounds=bounds).kept}
    assert count(Space(grid, bounds=bounds)).survivors == len(kept)
    keys = [(-t.psi, t.omega, t.nu) for t in map(taxonomy_of, everything)]
    assert keys == sorted(keys)


def test_family_filter() -> None:
    found = survivors(Space(4, bounds=EVERYTHING, family="low-rank"))
    assert found
    assert {classify(s).family for s in found} == {"low-rank"}
    assert count(Space(4, family="low-rank")).survivors == len(found) == 5
