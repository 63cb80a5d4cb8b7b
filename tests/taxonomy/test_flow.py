from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from itertools import permutations

import pytest
from hypothesis import given, settings

from einsearch_cli.structures import Structure, parse_structure
from einsearch_cli.structures.extent import Extent
from einsearch_cli.taxonomy import taxonomy_of
from einsearch_cli.taxonomy.exponents import minimum_cut, smallest_largest_step
from tests.structures.all_orders import largest_step
from tests.structures.strategies import extents
from tests.taxonomy.max_flow import input_side


def assert_flow_finds_the_same_cut(structure: Structure) -> None:
    cut = minimum_cut(structure)
    assert {"X", *cut.input_side} == input_side(structure.exponents)


@settings(deadline=None)
@given(extents(max_factors=4))
def test_maximum_flow_names_the_same_bottleneck_as_trying_all_cuts(given_extents: dict[str, Extent]) -> None:
    assert_flow_finds_the_same_cut(Structure.of(given_extents))


@pytest.mark.parametrize(
    "text", ["kronecker:n=5", "tucker:n=2,r=d^1/8", "cp:n=3,r=d^1/4", "btt:n=5,r=d^1/8", "tucker:n=3"]
)
def test_so_it_does_with_more_than_four_factors(text: str) -> None:
    assert_flow_finds_the_same_cut(parse_structure(text))


@given(extents(max_factors=4))
@settings(deadline=None)
def test_the_best_order_is_that_of_trying_all_orders(given_extents: dict[str, Extent]) -> None:
    structure = Structure.of(given_extents)
    orders = permutations(structure.factors)
    expected = min(largest_step(structure.exponents, order) for order in orders)
    assert smallest_largest_step(structure.exponents, structure.factors) == expected


def test_the_bottleneck_of_tucker_is_between_the_factors_and_the_core() -> None:
    found = taxonomy_of(parse_structure("tucker"))
    assert found.psi == Fraction(1, 2)
    assert str(found.cut) == "X A B | C D E Y through AC, BC"


def test_classifying_imports_neither_networkx_nor_sympy() -> None:
    code = (
        "import sys; from einsearch_cli.structures import parse_structure as p; from einsearch_cli.taxonomy import classify;"
        "classify(p('btt:n=6,r=2')); print('networkx' in sys.modules, 'sympy' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout
    assert found.strip() == b"False False"
