from __future__ import annotations

import time
from fractions import Fraction
from random import Random

import pytest
from hypothesis import given, settings, strategies as st

from einsearch_cli.structures import parse_structure
from einsearch_cli.structures.extent import Extent
from einsearch_cli.structures.factor_names import new_names, renamed
from einsearch_cli.structures.normal_form import Extents, carrier_classes, factors_of
from tests.structures.all_orders import named_by_trying_all_orders

SIZES = [
    Extent.power(Fraction(1, 2)),
    Extent.power(Fraction(1, 3)),
    Extent.fixed(2),
    Extent(Fraction(1, 2), Fraction(1)),
]


def name_factors(extents: Extents) -> Extents:
    return renamed(extents, new_names(extents, factors_of(extents)))


@st.composite
def networks(draw: st.DrawFn, max_factors: int = 5) -> Extents:
    """Few carrier sets with few sizes, so that many orders are equally cheap; every factor has an index."""
    factors = draw(st.integers(1, max_factors))
    classes = [c for c in carrier_classes(factors, block_diagonal=draw(st.booleans())) if len(c) > 1]
    letters = {t for c in classes for t in c} - {"X", "Y"}
    chosen = draw(st.lists(st.sampled_from(classes), min_size=1, max_size=9, unique=True))
    chosen += [frozenset({"X", factor}) for factor in sorted(letters - set().union(*chosen))]
    return {carriers: draw(st.sampled_from(SIZES)) for carriers in chosen}


@settings(deadline=None, max_examples=200)
@given(networks())
def test_names_are_those_of_trying_all_orders(extents: Extents) -> None:
    assert name_factors(extents) == named_by_trying_all_orders(extents)


@pytest.mark.parametrize(
    "text", ["kronecker:n=5", "tucker:n=2,r=d^1/4", "cp:n=2,r=2", "monarch:n=5", "khatri-rao:n=5,r=4"]
)
def test_names_of_symmetric_structures_are_those_of_trying_all_orders(text: str) -> None:
    shuffled = list(parse_structure(text).extents.items())
    Random(0).shuffle(shuffled)
    assert name_factors(dict(shuffled)) == named_by_trying_all_orders(dict(shuffled))


@pytest.mark.parametrize("text", ["monarch:n=8", "kronecker:n=8", "cp:n=4,r=4", "tucker:n=3,r=4", "btt:n=8,r=2"])
def test_eight_factors_take_less_than_a_second(text: str) -> None:
    started_s = time.perf_counter()
    structure = parse_structure(text)
    elapsed_s = time.perf_counter() - started_s
    assert len(structure.factors) >= 7
    assert elapsed_s < 1
