from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from functools import cache
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from einsearch_cli.errors import StructureError
from einsearch_cli.structures import Structure, parse_structure
from einsearch_cli.structures.extent import Extent
from einsearch_cli.taxonomy import Bounds, Space, search, survivors, taxonomy_of
from einsearch_cli.taxonomy.trees import tree_taxonomy
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


TAUS = [Fraction(0), Fraction(1, 3), Fraction(1, 2), Fraction(1), Fraction(7, 5), Fraction(99)]


@pytest.mark.parametrize("tau", TAUS, ids=str)
@pytest.mark.parametrize("space", [(2, 4), (3, 1), (3, 2), (4, 1)], ids=str)
def test_arrays_agree_with_one_structure_at_a_time(space: tuple[int, int], tau: Fraction) -> None:
    factors, grid = space
    for found in search(Space(grid, factors, exactly=True, tokens=tau)):
        chosen = np.arange(0, len(found.batch), max(1, len(found.batch) // 60))
        part = replace(found, batch=found.batch.only(chosen))
        for structure, triple in zip(part.structures(), part.taxonomy(), strict=True):
            there = tree_taxonomy(structure, tau)
            omega, psi, nu = (Fraction(n, found.unit) for n in triple)
            assert (omega, psi, nu) == (there.omega, taxonomy_of(structure).psi, there.nu), str(structure)


@cache
def everything(factors: int, grid: int) -> tuple[Structure, ...]:
    return tuple(survivors(Space(grid, factors)))


@settings(deadline=None, max_examples=30)
@given(
    st.sampled_from([(2, 2), (2, 3), (3, 1)]),
    st.fractions(0, 3, max_denominator=4),
    st.fractions(0, 1, max_denominator=4),
    st.fractions(-1, 1, max_denominator=6),
    st.fractions(-1, 2, max_denominator=6),
    st.booleans(),
)
def test_filters_use_the_best_tree_and_pruning_loses_nothing(
    space: tuple[int, int], tau: Fraction, min_psi: Fraction, max_omega: Fraction, max_nu: Fraction, pareto: bool
) -> None:
    factors, grid = space
    places = {}
    for structure in everything(factors, grid):
        tree = tree_taxonomy(structure, tau)
        places[structure] = (-taxonomy_of(structure).psi, tree.omega, tree.nu)
    kept = {s for s, (psi, omega, nu) in places.items() if -psi >= min_psi and omega <= max_omega and nu <= max_nu}
    if pareto:
        best = {places[s] for s in kept}
        best = {t for t in best if not any(o != t and all(a <= b for a, b in zip(o, t, strict=True)) for o in best)}
        kept = {s for s in kept if places[s] in best}
    bounds = Bounds(min_psi, max_omega, max_nu)
    found = survivors(Space(grid, factors, bounds, tokens=tau, pareto=pareto))
    assert len(found) == len(set(found))
    assert set(found) == kept
    assert [places[s] for s in found] == sorted(places[s] for s in found), "best first, by the trees"


def test_a_transpose_has_the_same_best_tree() -> None:
    for structure in everything(2, 3):
        tau = Fraction(1, 2)
        assert tree_taxonomy(structure.transposed(), tau).nu == tree_taxonomy(structure, tau).nu


def test_a_token_exponent_that_is_too_fine_is_refused() -> None:
    with pytest.raises(StructureError, match="ν is a multiple of 1/400,012"):
        survivors(Space(4, 2, tokens=Fraction(1, 100_003)))


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
