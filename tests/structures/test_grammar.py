from __future__ import annotations

from fractions import Fraction
from itertools import permutations, product

import numpy as np
import pytest

from einsearch_cli.errors import StructureError
from einsearch_cli.structures import Structure
from einsearch_cli.structures.extent import Extent
from einsearch_cli.structures.grammar import (
    canonical,
    distinct_count,
    grid_points,
    irreducible,
    raw_count,
    structures_of,
)
from einsearch_cli.structures.normal_form import carrier_classes, text_of_carriers


def brute_force_points(factors: int, grid: int) -> list[dict[str, int]]:
    """All grid points by filtering every assignment of exponents."""
    classes = [text_of_carriers(c) for c in carrier_classes(factors)]
    return [
        point
        for values in product(range(grid + 1), repeat=len(classes))
        for point in [dict(zip(classes, values, strict=True))]
        if all(sum(v for c, v in point.items() if side in c) == grid for side in "XY")
    ]


def up_to_renaming(points: list[dict[str, int]], factors: int) -> set[frozenset[tuple[str, int]]]:
    """One representative of each class: the smallest of all renamings."""
    letters = "ABC"[:factors]
    found = set()
    for point in points:
        renamings = []
        for order in permutations(letters):
            names = str.maketrans(letters, "".join(order))
            renamings.append(
                sorted((text_of_carriers(frozenset(c.translate(names))), v) for c, v in point.items() if v)
            )
        found.add(frozenset(min(renamings)))
    return found


@pytest.mark.parametrize(("factors", "grid", "published"), [(1, 3, 1), (2, 2, 60), (2, 3, 208), (2, 4, 585)])
def test_counts_agree_with_brute_force_and_the_published_ones(factors: int, grid: int, published: int) -> None:
    points = brute_force_points(factors, grid)
    assert len(points) == raw_count(factors, grid) == len(grid_points(factors, grid))
    assert {tuple(p.values()) for p in points} == {tuple(row) for row in grid_points(factors, grid).tolist()}
    assert len(up_to_renaming(points, factors)) == distinct_count(factors, grid) == published
    assert int(canonical(grid_points(factors, grid), factors).sum()) == published


def test_three_factors_by_burnside() -> None:
    assert distinct_count(3, 1) == int(canonical(grid_points(3, 1), 3).sum())
    assert distinct_count(3, 4) == 4_650_075


@pytest.mark.parametrize("grid", [2, 3, 4])
def test_the_array_route_finds_the_same_normal_forms_as_one_structure_at_a_time(grid: int) -> None:
    slow = set()
    for point in brute_force_points(2, grid):
        structure = Structure.of({c: Extent.power(Fraction(v, grid)) for c, v in point.items()})
        slow |= {structure} if len(structure.factors) == 2 else set()
    points = grid_points(2, grid)
    points = points[irreducible(points, 2)]
    fast = list(structures_of(points[canonical(points, 2)], 2, grid))
    assert len(fast) == len(set(fast))
    assert set(fast) == slow


def test_a_space_that_is_too_large_is_refused_with_its_size() -> None:
    with pytest.raises(StructureError, match="3 factors on a grid of 1/4 have 27,562,500 points"):
        grid_points(3, 4)
    with pytest.raises(StructureError, match="both must be at least 1"):
        grid_points(2, 0)


def test_grid_points_are_integers() -> None:
    assert grid_points(2, 4).dtype == np.int16
