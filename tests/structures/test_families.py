from __future__ import annotations

from fractions import Fraction
from itertools import permutations
from random import Random

import pytest
import sympy
from hypothesis import given, settings, strategies as st

from einsearch_cli.errors import StructureError
from einsearch_cli.structures import FAMILIES, Structure, family_of, family_text, parse_structure
from einsearch_cli.structures.extent import Extent
from einsearch_cli.structures.families import Family, carriers_at, find_family, usage
from einsearch_cli.taxonomy import taxonomy_of
from tests.structures.strategies import extents

MEMBERS = {
    "kronecker:n=3": "XA^1/3 XB^1/3 XC^1/3 YA^1/3 YB^1/3 YC^1/3",
    "kronecker:n=4": "XA XB XC XD YA YB YC YD",
    "tt:n=3,r=4": "XC XB XA YA YB YC CB=4 BA=4",
    "tt:n=4,r=d^1/8": "XA XB XC XD YA YB YC YD AB^1/8 BC^1/8 CD^1/8",
    "monarch:n=3": "XA XAB XABC YABC YBC YC",
    "monarch:n=4": "XD XDA XDAB XDABC YDABC YABC YBC YC",
    "btt:n=3,r=2": "XA XAB XABC YABC YBC YC AB=2 BC=2",
    "btt:n=4,r=d^1/4": "XA XAB XABC XABCD YABCD YBCD YCD YD AB^1/4 BC^1/4 CD^1/4",
    "khatri-rao": "XA XB XC YA YB YC ABC=4",
    "khatri-rao:n=4,r=d^1/2": "XA XB XC XD YA YB YC YD ABCD^1/2",
    "cp:r=8": "XA XB YC YD ABCD=8",
    "cp:n=3": "XA XB XC YD YE YF ABCDEF^1/2",
    "tucker": "XA XB YC YD AE^1/4 BE^1/4 CE^1/4 DE^1/4",
    "tucker:n=1,r=4": "XA AB=4 BC=4 YC",
}
"""Family text and the same structure in carrier sets, factors named in some order."""

SMALLER = {
    "kronecker:n=2": "kronecker",
    "tt:n=2,r=4": "tt:r=4",
    "tt:n=3,r=1": "kronecker:n=3",
    "btt:n=3,r=1": "monarch:n=3",
    "btt:n=2,r=2,blocks=4": "btt:r=2,blocks=4",
    "khatri-rao:n=2,r=4": "tt:r=4",
    "khatri-rao:r=1": "kronecker:n=3",
    "cp:n=1": "low-rank",
}
"""Texts with a simpler equivalent."""


@pytest.mark.parametrize("text", MEMBERS)
def test_members_are_built_from_text_recognised_and_written_back(text: str) -> None:
    structure = parse_structure(text)
    assert structure == parse_structure(MEMBERS[text])
    assert family_text(structure) == text
    assert family_of(structure) == text.partition(":")[0]
    assert parse_structure(str(structure)) == structure


@pytest.mark.parametrize("text", SMALLER)
def test_the_simplest_text_is_given(text: str) -> None:
    assert parse_structure(text) == parse_structure(SMALLER[text])
    assert family_text(parse_structure(text)) == SMALLER[text]


def test_monarch_of_three_factors_has_full_rank_shares_nothing_and_has_3_d_to_the_4_thirds_parameters() -> None:
    structure = parse_structure("monarch:n=3")
    found = taxonomy_of(structure)
    assert (found.omega, found.psi, found.nu) == (0, 1, Fraction(1, 3))
    assert structure.at(4096, 4096).params == 3 * 16**4


@pytest.mark.parametrize(
    ("text", "family"),
    [
        ("XA^1/2 XB^1/4 XC^1/4 YA^1/4 YB^1/4 YC^1/2", "kronecker"),
        ("XA^1/2 XB^1/4 XC^1/4 YA^1/4 YB^1/4 YC^1/2 AB^1/4 BC^1/8", "tt"),
        ("XA^1/2 XB^1/4 XC^1/4 YA^1/4 YB^1/4 YC^1/2 AB^1/4", "tt"),
        ("XA^1/2 XB^1/4 XC^1/4 YA^1/4 YB^1/4 YC^1/2 ABC^1/4", "khatri-rao"),
        ("XA^1/2 XB^1/4 XC^1/4 YA^1/4 YB^1/4 YC^1/2 AB^1/4 BC^1/8 CA^1/8", "generic"),
        ("XA^1/2 XAB^1/4 XABC^1/4 YABC^1/2 YBC^1/4 YC^1/4", "monarch"),
        ("XA^1/2 XAB^1/4 XABC^1/4 YABC^1/2 YBC^1/4 YC^1/4 BC^1/4", "btt"),
        ("XA^1/2 XAB^1/4 XABC^1/4 YABC^1/2 YBC^1/4 YAC^1/4", "generic"),
        ("XA=4 XAB YB=2 YAB", "monarch"),
        ("XB=4 XAB YA=2 YAB", "monarch"),
        ("XA XB^1/4 YC YD ABCD=8", "cp"),
        ("XA XB YC YD AE^1/4 BE^1/8 CE^1/4 DE^1/4", "tucker"),
    ],
)
def test_members_that_no_parameter_reaches_are_known_by_their_carrier_sets(text: str, family: str) -> None:
    assert family_of(parse_structure(text)) == family


def named(sets: set[frozenset[str]], names: dict[str, str]) -> set[frozenset[str]]:
    return {frozenset(names.get(tensor, tensor) for tensor in carriers) for carriers in sets}


BUTTERFLIES = {2: "XA XAB YB YAB", 3: "XA XAB XABC YC YBC YABC"}


@given(extents(max_factors=3))
def test_recognition_agrees_with_trying_all_names_of_the_factors(given_extents: dict[str, Extent]) -> None:
    structure = Structure.of(given_extents)
    text = family_text(structure)
    if text is not None:
        assert parse_structure(text) == structure
    sets = {frozenset(carriers) for carriers, _ in structure.indices}
    butterfly = set(map(frozenset, BUTTERFLIES.get(len(structure.factors), "").split()))
    orders = permutations(structure.factors)
    is_butterfly = any(named(sets, dict(zip(order, "ABC", strict=False))) == butterfly for order in orders)
    assert (family_of(structure) == "monarch") == is_butterfly


@pytest.mark.parametrize("text", [text for text in MEMBERS if ":n=4" not in text])
@given(st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=10)
def test_members_are_recognised_whatever_their_factors_are_called(text: str, random: Random) -> None:
    structure = parse_structure(text)
    letters = "".join(structure.factors)
    renamed = str.maketrans(letters, "".join(random.sample(letters, len(letters))))
    shuffled = {carriers.translate(renamed): extent for carriers, extent in structure.indices}
    assert family_text(Structure.of(shuffled)) == text


def number(formula: str, **values: Fraction) -> sympy.Expr:
    names = {"max": sympy.Max, "min": sympy.Min, "n": values["n"], "ρ": values["rho"], "β": values["beta"]}
    return sympy.sympify(
        formula, locals={k: sympy.Rational(str(v)) if k not in ("max", "min") else v for k, v in names.items()}
    )


def member(family: Family, n: int, rho: Fraction, beta: Fraction) -> Structure:
    values = {"n": str(n), "r": f"d^{rho}", "blocks": f"d^{beta}"}
    if family.name == "block-shuffle":
        values["blocks"] = "4"
    taken = [k for k in family.parameters if n == 2 or k not in family.pairs_only]
    return parse_structure(f"{family.name}:" + ",".join(f"{k}={values[k]}" for k in taken))


@pytest.mark.parametrize("name", FAMILIES)
@settings(deadline=None, max_examples=30)
@given(st.fractions(0, 1, max_denominator=8), st.fractions(0, 1, max_denominator=6), st.sampled_from([2, 3]))
def test_formulas_give_the_numbers_of_every_member(name: str, rho: Fraction, beta: Fraction, n: int) -> None:
    family = FAMILIES[name]
    n = n if family.has_orders and name != "tucker" else 2
    if n > 2:
        beta = Fraction(1, n)
    if (
        0 in (rho, beta)
        or beta == 1
        or (name == "block-dense" and beta >= rho)
        or (name == "tucker" and rho > Fraction(1, n))
    ):
        return
    found = taxonomy_of(member(family, n, rho, beta))
    formulas = family.formulas
    expected = [number(text, n=n, rho=rho, beta=beta) for text in (formulas.omega, formulas.psi, formulas.nu)]
    assert [found.omega, found.psi, found.nu] == [Fraction(str(value)) for value in expected]


@pytest.mark.parametrize("name", FAMILIES)
def test_usage_and_carrier_sets_read_back_to_the_family(name: str) -> None:
    family = find_family(name)
    text = usage(family)
    simpler = {"btt:r=1,blocks=d^1/2": "monarch"}.get(text, name)
    assert family_of(parse_structure(text)) == simpler
    if family.has_orders:
        carriers = carriers_at(family, 3).replace("=r", "=7")
        assert family_of(parse_structure(carriers)) == name


@pytest.mark.parametrize(
    ("text", "message", "remedy"),
    [
        (
            "kronecker:n=1",
            "n=1 in 'kronecker:n=1' is not an order of kronecker: n must be from 2 to 8",
            "kronecker:n=3",
        ),
        ("kronecker:n=9", "n must be from 2 to 8, as a structure may have 8 factors", "kronecker:n=3"),
        ("kronecker:n=1000000000000000", "n=1000000000000000", "kronecker:n=3"),
        ("cp:n=5", "n must be from 1 to 4", "cp:n=3"),
        ("tucker:n=4", "n must be from 1 to 3", "tucker:n=3"),
        ("tt:n=d,r=4", "n=d in", "tt:n=3"),
        ("tt:n=3", "does not say r", "tt:r=64"),
        ("dense:n=3", "'n=3' in 'dense:n=3' is not a parameter of dense", "dense"),
        ("monarch:n=3,blocks=4", "gives blocks: monarch takes it at n=2 only", "leave blocks out"),
        ("kronecker:n=", "'' in 'kronecker:n=' is not a size", "write a size"),
    ],
)
def test_bad_orders_are_refused_before_anything_is_built(text: str, message: str, remedy: str) -> None:
    with pytest.raises(StructureError) as caught:
        parse_structure(text)
    assert message in caught.value.problem
    assert remedy in caught.value.remedy
