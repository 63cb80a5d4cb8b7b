from __future__ import annotations

import random
from fractions import Fraction
from itertools import permutations

import pytest
import sympy

from einsearch_cli.errors import StructureError
from einsearch_cli.structures import parse_structure
from einsearch_cli.structures.free_exponents import FreeStructure, parse_free_structure
from einsearch_cli.taxonomy import (
    EVERYTHING,
    Space,
    formula_texts,
    survivors,
    taxonomy_of,
)
from einsearch_cli.taxonomy.symbolic import FreeTaxonomy
from tests.structures.all_orders import step_exponents
from tests.taxonomy.sympy_formulas import flops_formula, params_formula

MARKET = [
    "XA^1 AB^r YB^1",
    "XA^a XAB^(1-a) YB^e YAB^(1-e) AB^r",
    "XA^a XB YA^b YB AB^r",
    "XA^a XB^b XAB YA^p YB^q YAB AB^r",
    "XA^(1/2+a) XB^(1/2-a) YA^(1/3) YB^(2/3) AB^(a+1/2)",
    "XA XAB^a XABC^b YABC^e YBC^f YC AB^r BC^s",
    "XA^a XB^b XC YA^b YB^a YC ABC^r",
    "XA^a XB YC YD^b AE^r BE^r CE^s DE^s",
]
FOUR = [text for text in MARKET if "E" not in text]


def points(free: FreeStructure, count: int, seed: int = 0) -> list[dict[str, Fraction]]:
    """Random points where all exponents are positive and at most 1: between the inner point and a random one."""
    generator = random.Random(seed)
    inside = free.domain.inside
    assert inside is not None
    found: list[dict[str, Fraction]] = []
    while len(found) < count:
        far = {s: Fraction(generator.randint(-12, 24), 12) for s in free.symbols}
        share = Fraction(generator.randint(0, 12), 12)
        point = {s: inside[s] + share * (far[s] - inside[s]) for s in free.symbols}
        if all(0 < exponent.at(point) <= 1 for _, exponent in free.indices):
            found.append(point)
    return found


def value(formula: sympy.Expr, point: dict[str, Fraction]) -> Fraction:
    numbers = {sympy.Symbol(s, real=True): sympy.Rational(v.numerator, v.denominator) for s, v in point.items()}
    return Fraction(str(sympy.sympify(formula).subs(numbers)))


@pytest.mark.parametrize("text", FOUR)
def test_formulas_give_the_numbers_at_random_points(text: str) -> None:
    free = parse_free_structure(text)
    found = FreeTaxonomy(free)
    for point in points(free, 25):
        taxonomy = taxonomy_of(free.at(point))
        assert value(found.omega, point) == taxonomy.omega, point
        assert value(found.psi, point) == taxonomy.psi, point
        assert value(found.nu, point) == taxonomy.nu, point
        assert value(found.parameter_exponent, point) == taxonomy.parameter_exponent, point


@pytest.mark.parametrize("text", ["XYA^a XA YA", "XY^a XYB^b XA YB AB^r", "XYAB^a XA^b XB YB AB^r"])
def test_formulas_of_block_diagonal_structures_give_the_numbers_at_random_points(text: str) -> None:
    free = parse_free_structure(text, block_diagonal=True)
    found = FreeTaxonomy(free)
    for point in points(free, 25):
        taxonomy = taxonomy_of(free.at(point))
        assert value(found.omega, point) == taxonomy.omega, point
        assert value(found.psi, point) == taxonomy.psi, point
        assert value(found.nu, point) == taxonomy.nu, point
    with pytest.raises(StructureError, match="is carried by both X and Y"):
        parse_free_structure(text)


@pytest.mark.parametrize("text", FOUR)
def test_counts_are_those_of_the_structure_at_random_points(text: str) -> None:
    free = parse_free_structure(text)
    found = FreeTaxonomy(free)
    d = sympy.Symbol("d", positive=True)
    for point in points(free, 6, seed=1):
        structure = free.at(point)
        numbers = {sympy.Symbol(s, real=True): sympy.Rational(v.numerator, v.denominator) for s, v in point.items()}
        assert sympy.simplify(found.params.subs(numbers) - params_formula(structure)) == 0
        for dimension in (2, 64, 2**20):
            orders = permutations(structure.factors)
            totals = [sum(dimension ** float(s) for s in step_exponents(structure.exponents, o)) for o in orders]
            assert float(found.flops_per_token.subs(numbers).subs(d, dimension)) == pytest.approx(2 * min(totals))


@pytest.mark.parametrize(
    ("text", "omega", "psi", "nu"),
    [
        ("XA^1 AB^r YB^1", "0", "r", "r"),
        ("XA^b XAB YB^b YAB AB^r", "0", "Min(1, -2*b + r + 2)", "-b + r + 1"),
        ("XA^a XAB^(1-a) YB^e YAB^(1-e) AB^r", "0", "Min(1, -a - e + r + 2)", "Max(-a + r + 1, -e + r + 1)"),
        (
            "XA^a XB YA^b YB",
            "Min(a, b, 1 - a, 1 - b)",
            "Min(-a + b + 1, a - b + 1)",
            "Min(Max(a, 1 - b), Max(b, 1 - a))",
        ),
        ("XA^1/3 XB^2/3 YA^3/4 YB^(1/4)", "1/4", "7/12", "1/3"),
    ],
)
def test_formulas_are_as_short_as_they_can_be(text: str, omega: str, psi: str, nu: str) -> None:
    found = FreeTaxonomy(parse_free_structure(text)).to_json()
    assert (found["omega"], found["psi"], found["nu"]) == (omega, psi, nu)


def test_the_range_and_the_cuts_are_named() -> None:
    found = FreeTaxonomy(parse_free_structure("XA^a XB^b XAB YA^a YB YAB^(1/4) AB^r")).to_json()
    assert found["range"] == ["0 <= a <= 3/4", "0 <= b", "0 <= r <= 1", "a + b <= 1"]
    assert found["symbols"] == ["a", "b", "r"]
    low_rank = FreeTaxonomy(parse_free_structure("XA^1 AB^r YB^1")).to_json()
    assert low_rank["cuts"] == [{"cut": "X A | B Y through AB", "exponent": "r"}]
    assert low_rank["family"] == "low-rank"


def test_formulas_read_back_by_sympy() -> None:
    item = FreeTaxonomy(parse_free_structure("XA^a XB^b XAB YA^p YB^q YAB AB^r"))
    names = {s: sympy.Symbol(s, real=True) for s in item.free.symbols} | {"d": sympy.Symbol("d", positive=True)}
    for key, formula in (
        ("omega", item.omega),
        ("psi", item.psi),
        ("nu", item.nu),
        ("flops_per_token", item.flops_per_token),
    ):
        assert sympy.sympify(item.to_json()[key], locals=names) == formula


def test_too_many_factors_are_refused() -> None:
    with pytest.raises(StructureError, match="has 5 factors: formulas are worked out for up to 4"):
        FreeTaxonomy(parse_free_structure(MARKET[-1]))


@pytest.mark.parametrize("grid", [2, 3, 4, 5, 6])
def test_formulas_are_written_as_sympy_writes_them(grid: int) -> None:
    """This includes sums of several powers; sympy's own order of terms is the reference."""
    space = Space(grid, 2, EVERYTHING)
    texts = ["low-rank:r=64", "low-rank:r=d/4", "low-rank:r=3", "block-dense:blocks=4,r=d/4", "XA=2 XB=2 XAB YA=3 YB"]
    for structure in [*survivors(space)[:60], *map(parse_structure, texts)]:
        assert formula_texts(structure) == (str(params_formula(structure)), str(flops_formula(structure)))
