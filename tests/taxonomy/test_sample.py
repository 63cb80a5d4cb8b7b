from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from einsearch_cli.errors import StructureError
from einsearch_cli.structures import Structure
from einsearch_cli.taxonomy import Bounds, Space, parse_range, taxonomy_of
from einsearch_cli.taxonomy.continuous_sample import UNIT, sample
from einsearch_cli.taxonomy.trees import tree_taxonomy


@pytest.mark.parametrize("factors", [1, 2, 3])
@pytest.mark.parametrize("block_diagonal", [False, True])
def test_samples_are_normal_forms_with_the_taxonomy_of_one_structure_at_a_time(
    factors: int, block_diagonal: bool
) -> None:
    for drawn in sample(Space(UNIT, factors, block_diagonal=block_diagonal), 20, seed=factors):
        place = taxonomy_of(drawn.structure)
        assert drawn.place == tuple(n * UNIT for n in (place.omega, place.psi, place.nu))
        again = Structure.of(dict(drawn.structure.indices), block_diagonal=block_diagonal)
        assert again == drawn.structure
        assert len(drawn.structure.factors) == factors


def test_a_seed_settles_what_is_drawn() -> None:
    here, again, other = (sample(Space(UNIT, 3), 5, seed) for seed in (7, 7, 8))
    assert here == again
    assert here != other


def test_filters_hold_for_what_is_drawn() -> None:
    ranges = tuple(parse_range(text) for text in ("XB=0", "YA=0", "AB<=1/3", "XA=1/3..2/3"))
    bounds = Bounds(Fraction(1), Fraction(0), Fraction(1))
    for drawn in sample(Space(UNIT, 2, bounds, ranges=ranges), 30, seed=0):
        place, extent = taxonomy_of(drawn.structure), drawn.structure.extent
        assert (place.psi, place.omega) == (1, 0)
        assert place.nu <= 1
        assert extent("XB").is_one
        assert extent("AB").exponent <= Fraction(1, 3)
        assert Fraction(1, 3) <= extent("XA").exponent <= Fraction(2, 3)


def test_exact_thirds_can_be_fixed() -> None:
    for drawn in sample(Space(UNIT, 2, ranges=(parse_range("XAB=1/3"),)), 5, seed=0):
        assert drawn.structure.extent("XAB").exponent == Fraction(1, 3)


def test_sides_are_uniform_on_their_simplices() -> None:
    """Means, variances and the correlation of three exponents that are uniform on their simplex (Dirichlet)."""
    found = [drawn.structure for drawn in sample(Space(UNIT, 2), 4000, seed=3)]
    classes = ["XA", "XB", "XAB"]
    exponents = np.array([[float(s.extent(c).exponent) for c in classes] for s in found])
    both = (
        exponents[:, 0] + exponents[:, 1]
    ) / 2  # naming decides which is A; the mean of the two does not depend on it
    assert exponents[:, 2].mean() == pytest.approx(1 / 3, abs=0.015)
    assert exponents[:, 2].var() == pytest.approx(1 / 18, abs=0.006)
    assert both.mean() == pytest.approx(1 / 3, abs=0.01)
    bonds = np.array([float(s.extent("AB").exponent) for s in found])
    assert bonds.mean() == pytest.approx(1 / 2, abs=0.02)
    assert bonds.var() == pytest.approx(1 / 12, abs=0.006)


def test_pareto_keeps_what_no_other_one_drawn_beats() -> None:
    drawn = {item.place for item in sample(Space(UNIT, 3), 300, seed=0)}
    kept = {item.place for item in sample(Space(UNIT, 3, pareto=True), 300, seed=0)}

    def beaten(place: tuple[int, int, int]) -> bool:
        omega, psi, nu = place
        return any(o <= omega and p >= psi and n <= nu and (o, p, n) != place for o, p, n in drawn)

    assert kept == {place for place in drawn if not beaten(place)}


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (Space(UNIT, 2, Bounds(Fraction(0), Fraction(0), Fraction(99))), "so that ω > 0: none has ω = 0"),
        (Space(UNIT, 2, ranges=tuple(map(parse_range, ("XA=1", "XB=1")))), "must be able to sum to 1"),
        (Space(UNIT, 2, Bounds(Fraction(2), Fraction(99), Fraction(99))), "0 of 4 structures found in"),
    ],
)
def test_what_cannot_be_drawn_is_refused(space: Space, message: str) -> None:
    with pytest.raises(StructureError, match=message) as caught:
        sample(space, 4, seed=0)
    assert "--fix XB=0" in caught.value.remedy


@pytest.mark.parametrize("tau", [Fraction(1, 2), Fraction(5, 17), Fraction(10**20)])
def test_samples_over_trees_have_the_taxonomy_of_one_structure_at_a_time(tau: Fraction) -> None:
    space = Space(UNIT, 3, tokens=tau)
    for drawn in sample(space, 20, seed=1):
        there = tree_taxonomy(drawn.structure, tau)
        found = tuple(Fraction(n, space.unit) for n in drawn.place)
        assert found == (there.omega, taxonomy_of(drawn.structure).psi, there.nu)
