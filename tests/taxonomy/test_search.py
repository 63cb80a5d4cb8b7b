"""The search compared with one structure at a time, which shares no code with it but the normal form."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from einsearch_cli.errors import SpecError, StructureError
from einsearch_cli.structures import Structure
from einsearch_cli.structures.extent import Extent
from einsearch_cli.structures.grid import Grid
from einsearch_cli.structures.grid_counts import distinct_count, irreducible_count
from einsearch_cli.structures.index_classes import IndexClasses
from einsearch_cli.structures.normal_form import text_of_carriers
from einsearch_cli.taxonomy import EVERYTHING, Bounds, Space, count, parse_range, search, survivors, taxonomy_of
from einsearch_cli.taxonomy.criteria import reasons_against
from einsearch_cli.taxonomy.exponents import Taxonomy
from einsearch_cli.taxonomy.limits import Limits
from einsearch_cli.taxonomy.search import Search
from tests.structures.test_grid import brute_force_points, plain_points

ONE = Fraction(1)
STRICT = Bounds(ONE, Fraction(0), ONE)


@cache
def every_structure(factors: int, grid: int, block_diagonal: bool = False) -> frozenset[Structure]:
    """Normal forms of all grid points, one at a time; those with all factors and those with fewer."""
    brute = block_diagonal or factors < 3
    points = brute_force_points(factors, grid, block_diagonal) if brute else plain_points(factors, grid)
    found = set()
    for point in points:
        extents = {c: Extent.power(Fraction(v, grid)) for c, v in point.items() if v}
        with suppress(StructureError):  # a multiple of the identity, where X and Y share everything
            found.add(Structure.of(extents, block_diagonal=block_diagonal))
    return frozenset(found)


def passes(structure: Structure, bounds: Bounds) -> bool:
    return not reasons_against(taxonomy_of(structure), bounds)


ALL_BOUNDS = [
    EVERYTHING,
    STRICT,
    Bounds(Fraction(1, 2), Fraction(1, 2), Fraction(3, 4)),
    Bounds(Fraction(0), Fraction(0), Fraction(99)),
    Bounds(ONE, Fraction(99), Fraction(99)),
    Bounds(Fraction(0), Fraction(99), Fraction(1, 2)),
    Bounds(Fraction(2), Fraction(0), Fraction(0)),
]


@pytest.mark.parametrize("bounds", ALL_BOUNDS, ids=str)
@pytest.mark.parametrize(("factors", "grid"), [(1, 3), (2, 2), (2, 3), (2, 4), (3, 1)])
def test_survivors_equal_brute_force(factors: int, grid: int, bounds: Bounds) -> None:
    found = survivors(Space(grid, factors, bounds))
    assert len(found) == len(set(found))
    assert set(found) == {s for s in every_structure(factors, grid) if passes(s, bounds)}


@cache
def three_factors_on_halves() -> dict[Structure, Taxonomy]:
    """Normal forms, one at a time, of one point of each class (the 63,504 points would take minutes)."""
    grid = Grid(IndexClasses(3), 2)
    names = [text_of_carriers(carriers) for carriers in grid.classes.carriers]
    found = {}
    for batch in Search(grid, Limits(reducible=True)).batches():
        for row in grid.points(batch.numbers).tolist():
            structure = Structure.of({c: Extent.power(Fraction(v, 2)) for c, v in zip(names, row, strict=True) if v})
            if len(structure.factors) == 3:
                found[structure] = taxonomy_of(structure)
    return found


@pytest.mark.parametrize("bounds", [EVERYTHING, STRICT, Bounds(ONE, Fraction(1, 2), Fraction(1, 2))], ids=str)
def test_survivors_of_three_factors_on_halves_equal_brute_force(bounds: Bounds) -> None:
    found = set(survivors(Space(2, 3, bounds, exactly=True)))
    assert found == {s for s, place in three_factors_on_halves().items() if not reasons_against(place, bounds)}


@pytest.mark.parametrize("bounds", [EVERYTHING, STRICT, Bounds(ONE, Fraction(1, 2), Fraction(3, 4))], ids=str)
@pytest.mark.parametrize(("factors", "grid"), [(1, 2), (2, 1), (2, 2)])
def test_survivors_with_shared_indices_equal_brute_force(factors: int, grid: int, bounds: Bounds) -> None:
    found = survivors(Space(grid, factors, bounds, block_diagonal=True))
    assert len(found) == len(set(found))
    assert set(found) == {s for s in every_structure(factors, grid, block_diagonal=True) if passes(s, bounds)}
    pairs = set(survivors(Space(grid, factors, bounds, block_diagonal=True, up_to_transpose=True)))
    assert set(found) == pairs | {s.transposed() for s in pairs}
    assert count(Space(grid, factors, block_diagonal=True)).irreducible == irreducible_count(factors, grid, True)


@pytest.mark.parametrize(("factors", "grid"), [(2, 4), (3, 1), (3, 2), (4, 1)])
def test_the_taxonomy_on_arrays_agrees_with_one_structure_at_a_time(factors: int, grid: int) -> None:
    for found in search(Space(grid, factors, exactly=True)):
        chosen = np.arange(0, len(found.batch), max(1, len(found.batch) // 500))
        part = replace(found, batch=found.batch.only(chosen))
        for structure, text, triple in zip(part.structures(), part.texts(), part.taxonomy(), strict=True):
            place = taxonomy_of(structure)
            assert triple == tuple(n * grid for n in (place.omega, place.psi, place.nu)), text
            assert Structure.of(dict(structure.indices)) == structure, "the array route names factors as Structure does"
            assert str(structure) == text


@pytest.mark.parametrize(("factors", "grid"), [(1, 1), (2, 6), (3, 3), (4, 1)])
def test_unfiltered_searches_find_what_burnsides_lemma_says(factors: int, grid: int) -> None:
    there = Grid(IndexClasses(factors), grid)
    found = np.concatenate([batch.numbers for batch in Search(there).batches()])
    assert len(found) == len(np.unique(found)) == irreducible_count(factors, grid)
    whole = np.concatenate([batch.numbers for batch in Search(there, Limits(reducible=True)).batches()])
    assert len(whole) == len(np.unique(whole)) == distinct_count(factors, grid)


@cache
def whole_classification(factors: int, grid: int) -> tuple[np.ndarray, ...]:
    batches = list(Search(Grid(IndexClasses(factors), grid)).batches())
    names = ("numbers", "omega", "psi", "nu")
    return tuple(np.concatenate([getattr(batch, name).astype(int) for batch in batches]) for name in names)


@settings(deadline=None)
@given(
    st.sampled_from([(2, 6), (3, 2), (3, 3), (4, 1)]),
    st.integers(0, 4),
    st.integers(-1, 4),
    st.integers(-1, 6),
    st.data(),
)
def test_pruning_loses_nothing(
    space: tuple[int, int], min_psi: int, max_omega: int, max_nu: int, data: st.DataObject
) -> None:
    """The pruned search is compared with the whole classification, filtered afterwards."""
    grid = Grid(IndexClasses(space[0]), space[1])
    numbers, omega, psi, nu = whole_classification(*space)
    low, high = [0] * len(grid.classes.carriers), [space[1]] * len(grid.classes.carriers)
    for column in data.draw(st.lists(st.integers(0, len(low) - 1), max_size=3)):
        low[column], high[column] = sorted(data.draw(st.tuples(*[st.integers(0, space[1])] * 2)))
    points = grid.points(numbers)
    kept = ((points >= low) & (points <= high)).all(axis=1) & (psi >= min_psi) & (omega <= max_omega) & (nu <= max_nu)
    found = Search(grid, Limits(min_psi, max_omega, max_nu, tuple(low), tuple(high))).batches()
    everything = np.concatenate([np.zeros(0, dtype=int), *(batch.numbers for batch in found)])
    assert np.array_equal(np.sort(everything), np.sort(numbers[kept]))


@pytest.mark.parametrize(("factors", "grid"), [(2, 4), (3, 1)])
def test_up_to_transpose_keeps_one_of_each_pair(factors: int, grid: int) -> None:
    whole = set(survivors(Space(grid, factors)))
    kept = set(survivors(Space(grid, factors, up_to_transpose=True)))
    assert whole == kept | {s.transposed() for s in kept}
    assert all(s.transposed() == s or s.transposed() not in kept for s in kept)
    assert count(Space(grid, factors, up_to_transpose=True)).irreducible == sum(len(s.factors) == factors for s in kept)


RANGES = [["AB=0"], ["XAB<=1/4", "YB>=1/4"], ["XA=1/4..1/2"], ["XB=0", "YA=0"], ["XC>1/4"], ["AB>0", "AB<1/2"]]


@pytest.mark.parametrize("texts", RANGES, ids=str)
@pytest.mark.parametrize("up_to_transpose", [False, True])
def test_bounds_on_carrier_sets_hold_for_the_printed_form_and_lose_nothing(
    texts: list[str], up_to_transpose: bool
) -> None:
    ranges = tuple(map(parse_range, texts))
    found = set(survivors(Space(4, 2, ranges=ranges, up_to_transpose=up_to_transpose)))
    expected = {
        s
        for s in survivors(Space(4, 2))
        if all(s.extent("".join(sorted(r.carriers, key="XYABC".index))).exponent in r for r in ranges)
    }
    if up_to_transpose:
        assert expected == {s for s in found | {s.transposed() for s in found} if s in expected}
        assert all(s.transposed() == s or s.transposed() not in found for s in found)
    else:
        assert found == expected


@pytest.mark.parametrize("text", ["ABC=0", "XAB=0", "XAB=1/2", "BC<=1/2"])
def test_bounds_on_carrier_sets_of_three_factors(text: str) -> None:
    given = parse_range(text)
    name = "".join(sorted(given.carriers, key="XYABC".index))
    expected = {s for s in survivors(Space(2, 3)) if s.extent(name).exponent in given}
    assert set(survivors(Space(2, 3, ranges=(given,)))) == expected


@pytest.mark.parametrize("bounds", [EVERYTHING, Bounds(ONE, Fraction(1, 2), Fraction(99))], ids=str)
def test_pareto_keeps_what_nothing_beats(bounds: Bounds) -> None:
    found = set(survivors(Space(4, 2, bounds, pareto=True)))
    places = {s: taxonomy_of(s) for s in survivors(Space(4, 2, bounds))}
    triples = {(-p.psi, p.omega, p.nu) for p in places.values()}
    best = {t for t in triples if not any(o != t and all(a <= b for a, b in zip(o, t, strict=True)) for o in triples)}
    assert found == {s for s, p in places.items() if (-p.psi, p.omega, p.nu) in best}


def test_results_come_out_during_the_search_and_progress_ends_at_one() -> None:
    shares = [found.done for found in search(Space(4, 3, exactly=True))]
    assert len(shares) > 20
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)


def test_a_space_that_is_too_large_is_refused_with_its_size_and_a_remedy() -> None:
    with pytest.raises(StructureError) as caught:
        survivors(Space(4, 4))
    assert "457,207,031,250,000 points" in caught.value.problem
    assert "--max-nu '<1' with --min-psi 1 --max-omega 0, --grid 2" in caught.value.remedy
    assert count(Space(4, 4)).irreducible == irreducible_count(4, 4)


@pytest.mark.parametrize("text", ["AB", "AB=2", "AB==1", "A=0", "AAB=0", "AB>1/2..1", "AB=1/2..1/4", "αB=0", "AB<0"])
def test_bad_bounds_are_refused(text: str) -> None:
    with pytest.raises((SpecError, StructureError)) as caught:
        parse_range(text)
    assert text in caught.value.problem or text[-1] in caught.value.problem
    assert caught.value.remedy
