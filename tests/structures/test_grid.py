from __future__ import annotations

from fractions import Fraction
from itertools import permutations, product

import numpy as np
import pytest

from einsearch_cli.errors import StructureError
from einsearch_cli.structures import Structure
from einsearch_cli.structures.extent import Extent
from einsearch_cli.structures.grid import Grid
from einsearch_cli.structures.grid_counts import distinct_count, irreducible_count, points_within, raw_count
from einsearch_cli.structures.index_classes import IndexClasses
from einsearch_cli.structures.normal_form import text_of_carriers

Point = dict[str, int]


def brute_force_points(factors: int, grid: int, block_diagonal: bool = False) -> list[Point]:
    """All grid points by filtering every assignment of exponents."""
    classes = [text_of_carriers(c) for c in IndexClasses(factors, block_diagonal).carriers]
    return [
        point
        for values in product(range(grid + 1), repeat=len(classes))
        if all(sum(v for c, v in zip(classes, values, strict=True) if side in c) == grid for side in "XY")
        for point in [dict(zip(classes, values, strict=True))]
    ]


def plain_points(factors: int, grid: int) -> list[Point]:
    """All grid points, sides combined directly, where filtering every assignment takes too long."""
    masks = [text_of_carriers(c) for c in IndexClasses(factors).carriers]
    groups = [[c for c in masks if side in c] for side in "XY"]
    bonds = [c for c in masks if "X" not in c and "Y" not in c]
    sides = [
        [dict(zip(g, v, strict=True)) for v in product(range(grid + 1), repeat=len(g)) if sum(v) == grid]
        for g in groups
    ]
    chosen = [dict(zip(bonds, v, strict=True)) for v in product(range(grid + 1), repeat=len(bonds))]
    return [x | y | b for x in sides[0] for y in sides[1] for b in chosen]


def columns_after(classes: IndexClasses, letters: str, swap_sides: bool) -> list[int]:
    """For every column after renaming ABC… to `letters` (and X to Y), the column before."""
    names = str.maketrans("XY" + "ABCD"[: classes.factors], ("YX" if swap_sides else "XY") + letters)
    texts = [text_of_carriers(c) for c in classes.carriers]
    after = [text_of_carriers(frozenset(text.translate(names))) for text in texts]
    return [after.index(text) for text in texts]


def smallest(points: list[Point], classes: IndexClasses, with_transposes: bool = False) -> set[tuple[int, ...]]:
    """One representative of each class: the smallest of all renamings (and transposes)."""
    orders = ["".join(order) for order in permutations("ABCD"[: classes.factors])]
    columns = [
        columns_after(classes, o, swap) for o in orders for swap in ([False, True] if with_transposes else [False])
    ]
    rows = [tuple(point.values()) for point in points]
    return {min(tuple([row[c] for c in chosen]) for chosen in columns) for row in rows}


def transposed(point: Point) -> Point:
    swap = str.maketrans("XY", "YX")
    return {text_of_carriers(frozenset(c.translate(swap))): v for c, v in point.items()}


def absorbs_nothing(point: Point, factors: int) -> bool:
    """Whether no factor's indices are all carried by another one, in the words of the normal form."""
    live = [set(c) for c, v in point.items() if v]
    letters = "ABCD"[:factors]
    held = [[c for c in live if f in c] for f in letters]
    if not all(held):
        return False
    return not any(all(g in c for c in own) for f, own in zip(letters, held, strict=True) for g in letters if g != f)


SMALL = [(1, 3), (2, 1), (2, 2), (2, 3), (2, 4), (3, 1)]


@pytest.mark.parametrize(("factors", "grid"), SMALL)
def test_counts_agree_with_brute_force(factors: int, grid: int) -> None:
    points = brute_force_points(factors, grid) if factors < 3 else plain_points(factors, grid)
    check_counts(points, factors, grid)


def test_counts_agree_with_brute_force_for_three_factors_on_halves() -> None:
    check_counts(plain_points(3, 2), 3, 2)


@pytest.mark.parametrize(("factors", "grid"), [(1, 2), (2, 1), (2, 2)])
def test_counts_with_shared_indices_agree_with_brute_force(factors: int, grid: int) -> None:
    check_counts(brute_force_points(factors, grid, block_diagonal=True), factors, grid, block_diagonal=True)


def check_counts(points: list[Point], factors: int, grid: int, block_diagonal: bool = False) -> None:
    classes = IndexClasses(factors, block_diagonal)
    assert len(points) == raw_count(factors, grid, block_diagonal)
    assert len(points) == points_within(classes, grid, None, None)
    needed = [p for p in points if absorbs_nothing(p, factors)]
    for transposes in (False, True):
        assert distinct_count(factors, grid, block_diagonal, transposes) == len(smallest(points, classes, transposes))
        assert irreducible_count(factors, grid, block_diagonal, transposes) == len(
            smallest(needed, classes, transposes)
        )


@pytest.mark.parametrize(
    ("factors", "grid", "distinct"), [(2, 2, 60), (2, 3, 208), (2, 4, 585), (3, 4, 4_650_075), (4, 2, 108_010_179)]
)
def test_known_counts(factors: int, grid: int, distinct: int) -> None:
    assert distinct_count(factors, grid) == distinct


@pytest.mark.parametrize("block_diagonal", [False, True])
@pytest.mark.parametrize(("factors", "grid"), [(1, 2), (2, 2)])
def test_numbers_are_the_points_in_lexicographic_order(factors: int, grid: int, block_diagonal: bool) -> None:
    there = Grid(IndexClasses(factors, block_diagonal), grid)
    numbers = np.arange(len(there.inputs) * len(there.outputs) * there.bond_count)
    numbers = numbers[there.filled[there.parts(numbers)[0]] == there.outputs[there.parts(numbers)[1]].sum(axis=1)]
    points = there.points(numbers)
    assert points.tolist() == sorted(list(p.values()) for p in brute_force_points(factors, grid, block_diagonal))
    assert (there.number(*there.parts(numbers)) == numbers).all()


@pytest.mark.parametrize("block_diagonal", [False, True])
def test_renaming_and_transposing_numbers(block_diagonal: bool) -> None:
    classes = IndexClasses(3, block_diagonal)
    grid = Grid(classes, 1)
    names = [text_of_carriers(c) for c in classes.carriers]
    inputs, outputs, bonds = (values.ravel() for values in np.indices((len(grid.inputs), len(grid.outputs), 16)))
    fits = grid.filled[inputs] == grid.outputs[outputs].sum(axis=1)
    inputs, outputs, bonds = inputs[fits], outputs[fits], bonds[fits]
    before = [dict(zip(names, row, strict=True)) for row in grid.points(grid.number(inputs, outputs, bonds)).tolist()]
    for renaming in classes.renamings:
        letters = str.maketrans("ABC", "".join("ABC"[new] for new in renaming))
        after = grid.number(
            grid.renamed_inputs[renaming][inputs],
            grid.renamed_outputs[renaming][outputs],
            grid.renamed_bonds(bonds, renaming),
        )
        for point, row in zip(before[::7], grid.points(after)[::7].tolist(), strict=True):
            expected = {text_of_carriers(frozenset(c.translate(letters))): v for c, v in point.items()}
            assert dict(zip(names, row, strict=True)) == expected
    after = grid.number(*grid.transposed_sides(inputs, outputs), bonds)
    for point, row in zip(before, grid.points(after).tolist(), strict=True):
        assert dict(zip(names, row, strict=True)) == transposed(point)


def test_structures_and_texts_of_numbers() -> None:
    grid = Grid(IndexClasses(2), 4)
    half = Extent.power(Fraction(1, 2))
    monarch = Structure.of({"XA": half, "XAB": half, "YB": half, "YAB": half})
    points = grid.points(np.arange(raw_count(2, 4))).tolist()
    number = np.array([points.index([2, 0, 2, 0, 2, 2, 0])])
    assert list(grid.structures(number)) == [monarch]
    assert list(grid.texts(number)) == [str(monarch)]


@pytest.mark.parametrize(("factors", "grid"), [(5, 5), (4, 12), (2, 900), (7, 1)])
def test_a_grid_with_too_many_sides_is_refused_before_anything_is_allocated(factors: int, grid: int) -> None:
    with pytest.raises(StructureError, match=f"{factors} factors on a grid of 1/{grid} have .* input sides"):
        Grid(IndexClasses(factors), grid)


def test_a_grid_needs_factors_and_steps() -> None:
    with pytest.raises(StructureError, match="both must be at least 1"):
        Grid(IndexClasses(2), 0)
