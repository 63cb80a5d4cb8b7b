from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy.optimize import linprog

from einsearch_cli.errors import StructureError
from einsearch_cli.structures.free_exponents import has_free_exponents, parse_free_structure
from einsearch_cli.structures.linear_expression import UNIT, Linear, parse_linear
from einsearch_cli.structures.polytope import Polytope, maximise

coefficients = st.fractions(-3, 3, max_denominator=4)


@st.composite
def linear(draw: st.DrawFn, letters: str = "abc") -> Linear:
    return Linear.of(draw(coefficients), {letter: draw(coefficients) for letter in letters})


@given(linear(), linear(), coefficients)
def test_text_reads_back_and_arithmetic_is_that_of_numbers(left: Linear, right: Linear, number: Fraction) -> None:
    assert parse_linear(str(left)) == left
    at = {"a": Fraction(1, 3), "b": Fraction(-2), "c": number}
    assert (left + right).at(at) == left.at(at) + right.at(at)
    assert (left - right).at(at) == left.at(at) - right.at(at)
    assert parse_linear(f"({left})*{abs(number)} - ({right})/3") == left.times(abs(number)) - right.times(
        Fraction(1, 3)
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", "a"),
        ("1-a", "1 - a"),
        ("2a", "2*a"),
        ("-a+1", "1 - a"),
        ("1/2*a", "1/2*a"),
        ("a/2", "1/2*a"),
        ("1/2a", "1/2*a"),
        ("(1-a-b)/3", "1/3 - 1/3*a - 1/3*b"),
        ("2(1-a)", "2 - 2*a"),
        ("0.33", "1/3"),
        ("a-a", "0"),
        ("((a))", "a"),
        (" 1 - a ", "1 - a"),
    ],
)
def test_linear_expressions(text: str, expected: str) -> None:
    assert str(parse_linear(text)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ab", "it multiplies a by b"),
        ("a*(1-b)", "it multiplies a by 1 - b"),
        ("1/a", "it divides by a"),
        ("1/0", "it divides by 0"),
        ("1/(a-a)", "it divides by 0"),
        ("d", "d is the dimension"),
        ("(1-a", "a bracket is not closed"),
        ("1-a)", "')' is left over"),
        ("", "it ends too early"),
        ("1-", "it ends too early"),
        ("1--a", "'-' stands where a number or a letter must be"),
        ("a**2", "'*' stands where"),
        ("a^2", "'^2' in 'a^2' is not part of an exponent"),
        ("__import__('os')", "is not part of an exponent"),
        ("α", "is not part of an exponent"),
        ("A", "is not part of an exponent"),
        ("(" * 100 + "a" + ")" * 100, "'(' stands where"),
        ("9" * 30, "is not an exponent"),
    ],
)
def test_bad_expressions_name_what_cannot_be_read(text: str, message: str) -> None:
    with pytest.raises(StructureError) as caught:
        parse_linear(text)
    assert message in caught.value.problem
    assert caught.value.remedy


BOX = [parse_linear(text) for text in ("a", "1-a", "b", "1-b", "c", "1-c")]


@settings(deadline=None)
@given(linear(), st.lists(linear(), max_size=4))
def test_linear_programs_agree_with_scipy(objective: Linear, bounds: list[Linear]) -> None:
    polytope = Polytope.of([*BOX, *bounds])

    def row(expression: Linear) -> list[float]:
        return [float(dict(expression.terms).get(letter, 0)) for letter in "abc"]

    everything = [*BOX, *bounds]
    limits = {
        "A_ub": -np.array([row(bound) for bound in everything]),
        "b_ub": np.array([float(bound.constant) for bound in everything]),
        "bounds": [(None, None)] * 3,
    }
    if polytope.inside is None:
        widened = np.column_stack([limits["A_ub"], np.ones(len(everything))])
        found = linprog([0, 0, 0, -1], A_ub=widened, b_ub=limits["b_ub"], bounds=[(None, None)] * 3 + [(None, 1)])
        assert -found.fun <= 1e-7
        return
    assert all(bound.at(polytope.inside) > 0 for bound in polytope.bounds)
    best = linprog([-k for k in row(objective)], **limits)
    assert float(polytope.largest(objective)) == pytest.approx(-best.fun + float(objective.constant), abs=1e-7)


@settings(deadline=None)
@given(st.lists(linear(), max_size=4))
def test_bounds_left_out_follow_from_the_others(bounds: list[Linear]) -> None:
    polytope = Polytope.of([*BOX, *bounds])
    if polytope.inside is None:
        return
    kept = polytope.irredundant()
    smaller = Polytope(kept, polytope.inside)
    for bound in polytope.bounds:
        lowest, _ = maximise(UNIT - UNIT - bound, [*kept, bound + UNIT], polytope.inside)
        assert lowest <= 0
    for bound in kept:
        others = [other for other in kept if other != bound]
        assert maximise(UNIT - UNIT - bound, [*others, bound + UNIT], polytope.inside)[0] > 0
    assert smaller.inside is not None


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("XA^a XAB^(1-a) YB^e YAB^(1-e) AB^r", "XA^a XAB^(1-a) YB^e YAB^(1-e) AB^r"),
        ("XA XAB^b YB YAB^b", "XA^(1-b) XAB^b YB^(1-b) YAB^b"),
        ("XA XB^a XC YA YB YC AB^r", "XA^(1/2-1/2*a) XB^a XC^(1/2-1/2*a) YA^1/3 YB^1/3 YC^1/3 AB^r"),
        ("XA^( 1 - a ) BAX^a YB YAB^0.5", "XA^(1-a) XAB^a YB^1/2 YAB^1/2"),
        ("XA^1 AB^(r/2) AB^r YB", None),
        ("XA^1 AB^r YB^1 YAB^0", "XA^1 AB^r YB^1"),
    ],
)
def test_structures_with_letters(text: str, shown: str | None) -> None:
    assert has_free_exponents(text) or "^(" in text
    if shown is None:
        with pytest.raises(StructureError, match="AB occurs twice"):
            parse_free_structure(text)
        return
    free = parse_free_structure(text)
    assert str(free) == shown
    assert parse_free_structure(str(free)) == free


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("XA^a YA^1", "the input exponents of 'XA^a YA^1' sum to a: they must sum to 1 whatever the letters are"),
        ("XA^a XB^b YA YB", "sum to a + b"),
        ("XA^1 AB^r YB^r", "the output exponents"),
        ("XA^(2+a) XAB^(-1-a) YB^(-a) YAB^(1+a)", "no values of a make all exponents"),
        ("XA^a XAB^(1-a) YB^(1+a) YAB^(-a)", "no values of a make all exponents"),
        ("XA^a XAB^(1-a) YAB", "a factor whose indices another factor carries as well"),
        ("XA^a XB YA YB AB", "the bond AB in 'XA^a XB YA YB AB' has no exponent"),
        ("XA^a XAB=4 YB YAB", "'XAB=4' in 'XA^a XAB=4 YB YAB' is not a term"),
        ("XYA^a XA^(1-a) YA^(1-a)", "carried by both X and Y"),
        ("XA^a XAA^(1-a) YA", "names a tensor twice"),
        ("XA^a XB YA YB A^r", "carried by one tensor"),
        ("XA^a XB^ YA YB", "'XB^' in"),
        ("XA^a " + "X" * 3000, "has 3005 characters"),
        ("XA^(a+b+c+e+f+g+h+i+j+k+l+m+n) XB YA YB", "has 13 letters: at most 12"),
    ],
)
def test_bad_structures_are_refused_with_the_rule(text: str, message: str) -> None:
    with pytest.raises(StructureError) as caught:
        parse_free_structure(text)
    assert message in caught.value.problem
    assert caught.value.remedy
