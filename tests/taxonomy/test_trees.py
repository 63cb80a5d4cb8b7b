from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from einsearch_cli.structures import Structure, parse_structure
from einsearch_cli.structures.extent import Extent
from einsearch_cli.structures.normal_form import carrier_classes, text_of_carriers
from einsearch_cli.taxonomy import taxonomy_of
from einsearch_cli.taxonomy.trees import nu_over_trees, tree_taxonomy
from tests.structures.strategies import extents

Operand = tuple[frozenset[str], bool]
"""The indices that an operand still has, and whether it holds the activation."""


def all_ways(operands: list[Operand], exponents: dict[str, Fraction], tau: Fraction) -> Iterator[Fraction]:
    """The slow route: contract any two operands, in every possible sequence, following the index sets."""
    if len(operands) == 1:
        yield Fraction(-100)
        return
    for i, j in combinations(range(len(operands)), 2):
        (left, x), (right, y) = operands[i], operands[j]
        others = [operand for k, operand in enumerate(operands) if k not in (i, j)]
        needed = frozenset().union(*(indices for indices, _ in others)) | {c for c in exponents if "Y" in c}
        cost = sum((exponents[c] for c in left | right), Fraction(0)) - (0 if x or y else tau)
        for rest in all_ways([*others, ((left | right) & needed, x or y)], exponents, tau):
            yield max(cost, rest)


def slow_nu(structure: Structure, tau: Fraction) -> Fraction:
    exponents = {carriers: extent.exponent for carriers, extent in structure.indices}
    operands = [(frozenset(c for c in exponents if "X" in c), True)]
    operands += [(frozenset(c for c in exponents if f in c), False) for f in structure.factors]
    return min(all_ways(operands, exponents, tau)) - 1


@settings(deadline=None, max_examples=60)
@given(extents(max_factors=3), st.fractions(0, 3, max_denominator=4))
def test_nu_over_trees_is_that_of_trying_all_sequences(given_extents: dict[str, Extent], tau: Fraction) -> None:
    structure = Structure.of(given_extents)
    found = tree_taxonomy(structure, tau)
    usual = taxonomy_of(structure)
    assert found.nu == slow_nu(structure, tau)
    assert found.nu <= usual.nu
    assert found.omega - found.nu == usual.omega - usual.nu
    assert tree_taxonomy(structure, tau + 1).nu <= found.nu
    assert tree_taxonomy(structure, Fraction(99)).nu <= 1, "for many tokens W is formed for nothing"


@settings(deadline=None, max_examples=60)
@given(extents(max_factors=3), st.integers(0, 24))
def test_arrays_agree_with_one_structure_at_a_time(given_extents: dict[str, Extent], tokens: int) -> None:
    factors = len({tensor for carriers in given_extents for tensor in carriers} - {"X", "Y"})
    structure = Structure.of(given_extents)
    if len(structure.factors) < factors:
        return
    classes = [text_of_carriers(carriers) for carriers in carrier_classes(factors)]
    row = [int(structure.extent(carriers).exponent * 12) for carriers in classes]
    found = nu_over_trees(np.array([row, row], dtype=np.int16), factors, tokens)
    assert found.tolist() == [tree_taxonomy(structure, Fraction(tokens, 12)).nu * 12] * 2


@pytest.mark.parametrize(
    ("text", "tau", "nu", "omega", "tree"),
    [
        ("dense", 0, 1, 0, "xA"),
        ("monarch", 3, "1/2", 0, "(xA)B"),
        ("btt:r=d", 0, "3/2", 0, "(xA)B"),
        ("btt:r=d", "3/4", "5/4", "-1/4", "x(AB)"),
        ("btt:r=d", 1, 1, "-1/2", "x(AB)"),
        ("XA^1 AB^1 BC^1/4 YC^1", 0, 1, 0, "((xA)B)C"),
        ("XA^1 AB^1 BC^1/4 YC^1", 1, "1/4", "-3/4", "(x(AB))C"),
    ],
)
def test_many_tokens_make_merging_pay(text: str, tau: object, nu: object, omega: object, tree: str) -> None:
    found = tree_taxonomy(parse_structure(text), Fraction(str(tau)))
    assert (found.nu, found.omega, found.tree) == (Fraction(str(nu)), Fraction(str(omega)), tree)
