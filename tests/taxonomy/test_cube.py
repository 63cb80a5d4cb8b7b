"""Points of the cube and their structures."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from einsearch_cli.structures import parse_structure
from einsearch_cli.taxonomy import taxonomy_of
from einsearch_cli.taxonomy.cube import LEAST, UNIT, Cube


@pytest.mark.parametrize("factors", [1, 2, 3, 4])
def test_every_point_is_a_structure_whose_point_gives_it_back(factors: int) -> None:
    cube, random = Cube(factors), np.random.default_rng(factors)
    for _ in range(60):
        structure = cube.structure(cube.draw(random).tolist())
        assert len(structure.factors) <= factors
        assert all(e >= LEAST and (e * UNIT).denominator == 1 for e in structure.exponents.values())
        for tensor in "XY":
            assert sum(e for carriers, e in structure.exponents.items() if tensor in carriers) == 1
        point = cube.point(structure)
        assert point is not None
        assert cube.structure(point) == structure
        assert all(low <= value <= high for value, (low, high) in zip(point, cube.ranges, strict=True))


@pytest.mark.parametrize("factors", [2, 3])
def test_classes_vanish_on_a_part_of_the_cube_with_volume(factors: int) -> None:
    cube, random = Cube(factors), np.random.default_rng(0)
    drawn = {cube.structure(cube.draw(random).tolist()) for _ in range(1500)}
    whole = [s for s in drawn if len(s.factors) == factors and taxonomy_of(s).omega == 0 and taxonomy_of(s).psi == 1]
    assert len(whole) >= 5, "no uniform sample of the simplices has one"
    assert len({tuple(c for c, _ in s.indices) for s in whole}) >= 3


def test_named_families_are_points_and_fixed_sizes_are_none() -> None:
    cube = Cube(2)
    for text in ("dense", "monarch", "low-rank", "kronecker", "btt:r=d^1/4", "(1/3|0|2/3|0|2/3|1/3|1/4)"):
        structure = parse_structure(text)
        point = cube.point(structure)
        assert point is not None
        assert cube.structure(point) == structure
    for text in ("btt:r=4", "monarch:n=3"):
        assert cube.point(parse_structure(text)) is None


def test_small_exponents_vanish_and_the_others_fill_the_side() -> None:
    structure = Cube(2).structure([1.0, 0.02, 1.0, 0.0, 1.0, 1.0, 0.03])
    assert str(structure) == "XA^1/2 XAB^1/2 YB^1/2 YAB^1/2"
    thirds = Cube(2).structure([1.0, -1.0, 2.0, -1.0, 2.0, 1.0, 0.3])
    assert structure.exponents != thirds.exponents
    assert thirds.exponents[frozenset("AB")] == Fraction(3, 10)
