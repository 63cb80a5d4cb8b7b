from __future__ import annotations

import json
from fractions import Fraction

import pytest

from einsearch_cli.structures import parse_structure
from einsearch_cli.taxonomy.trees import tree_taxonomy


def test_enumerate_lists_filters_and_sorts_by_the_best_tree(einsearch) -> None:
    outcome = einsearch("enumerate", "--grid", 2, "--trees", "1", "--max-omega", "<0", "--format", "jsonl")
    items = [json.loads(line) for line in outcome.out.splitlines()]
    assert outcome.code == 0
    assert len(items) == 9
    for item in items:
        there = tree_taxonomy(parse_structure(item["text"]), Fraction(1))
        assert (item["omega"], item["nu"], item["token_exponent"]) == (str(there.omega), str(there.nu), "1")
    places = [tuple(map(Fraction, (item["psi"], item["omega"], item["nu"]))) for item in items]
    assert places == sorted(places, key=lambda p: (-p[0], p[1], p[2]))
    assert all(omega < 0 for _, omega, _ in places)


def test_a_bound_just_below_a_number_is_on_the_grid_of_the_trees(einsearch) -> None:
    """At τ = 1/3 some ν are 7/6, between 1 and 3/2, where the grid of exponents has nothing."""
    outcome = einsearch("enumerate", "--grid", 2, "--trees", "1/3", "--max-nu", "<3/2", "--format", "jsonl")
    nus = {json.loads(line)["nu"] for line in outcome.out.splitlines()}
    assert nus == {"0", "1/2", "1", "7/6"}


def test_count_and_sample_take_trees(einsearch) -> None:
    arguments = ("--grid", 2, "--max-omega", "<0", "--count", "--format", "json")
    with_trees = json.loads(einsearch("enumerate", *arguments, "--trees", 1).out)
    without = json.loads(einsearch("enumerate", *arguments).out)
    assert without["survivors"] == 0 < with_trees["survivors"]
    drawn = json.loads(einsearch("sample", "-n", 1, "--trees", "1/2", "--format", "jsonl").out)
    assert Fraction(drawn["nu"]) == tree_taxonomy(parse_structure(drawn["text"]), Fraction(1, 2)).nu


@pytest.mark.parametrize("command", [["enumerate"], ["sample"], ["classify", "monarch"]], ids=str)
@pytest.mark.parametrize("tau", ["-1", "abc", "1/0", "", "¾", "1e3", "9" * 99])
def test_bad_token_exponents_are_named(einsearch, command: list[str], tau: str) -> None:
    outcome = einsearch(*command, "--trees", tau)
    assert outcome.code == 2
    assert f"--trees {tau[:40]!r}" in outcome.err
    assert "try: write --trees 1" in outcome.err


@pytest.mark.parametrize("command", ["enumerate", "sample"])
def test_token_exponents_that_are_too_fine_are_refused(einsearch, command: str) -> None:
    outcome = einsearch(command, "--trees", "1/99999999999")
    assert outcome.code == 2
    assert "τ = 1/99999999999" in outcome.err
