from __future__ import annotations

import pickle
from fractions import Fraction
from itertools import permutations
from string import ascii_letters

import pytest
from hypothesis import given, strategies as st

from einsearch_cli.errors import StructureError
from einsearch_cli.structures import Structure, notations, parse_structure, structure_of_terms
from einsearch_cli.structures.extent import Extent
from tests.structures.strategies import extents


@given(extents(), st.randoms(use_true_random=False))
def test_renaming_the_factors_changes_nothing(given_extents: dict[str, Extent], random) -> None:
    letters = sorted({t for carriers in given_extents for t in carriers} - {"X", "Y"})
    shuffled = random.sample(letters, len(letters))
    names = str.maketrans("".join(letters), "".join(shuffled))
    renamed = {carriers.translate(names): extent for carriers, extent in given_extents.items()}
    assert Structure.of(renamed) == Structure.of(given_extents)


@given(extents())
def test_the_normal_form_is_its_own_normal_form(given_extents: dict[str, Extent]) -> None:
    structure = Structure.of(given_extents)
    assert Structure.of(dict(structure.indices)) == structure
    assert hash(Structure.of(dict(reversed(structure.indices)))) == hash(structure)


@given(extents())
def test_transposing_twice_changes_nothing(given_extents: dict[str, Extent]) -> None:
    structure = Structure.of(given_extents)
    assert structure.transposed().transposed() == structure


@given(extents())
def test_every_notation_reads_back_to_an_equal_structure(given_extents: dict[str, Extent]) -> None:
    structure = Structure.of(given_extents)
    assert structure_of_terms(structure.to_json()) == structure
    assert pickle.loads(pickle.dumps(structure)) == structure  # noqa: S301
    for name, text in notations(structure, 96, 64).items():
        if text is not None and name != "yaml":
            assert parse_structure(text).unordered == structure, (name, text)


@given(extents(), st.randoms(use_true_random=False))
def test_names_and_order_of_letters_and_operands_and_splitting_an_index_change_nothing(
    given_extents: dict[str, Extent], random
) -> None:
    """Each equation has every index as one or two letters, and factors and axes in any order, at random."""
    free = random.sample(ascii_letters, len(ascii_letters))
    letters: dict[str, str] = {}
    sizes: dict[str, Extent] = {}
    for carriers, extent in given_extents.items():
        part = Extent.power(extent.exponent * random.choice([Fraction(0), Fraction(1, 2), Fraction(1, 3)]))
        for size in filter(lambda size: not size.is_one, (part, extent / part)):
            letter = free.pop()
            letters[letter], sizes[letter] = carriers, size
    factors = sorted({t for carriers in letters.values() for t in carriers} - {"X", "Y"})
    random.shuffle(factors)
    operands = [
        "".join(x for x in random.sample(list(letters), len(letters)) if t in letters[x]) for t in ["X", *factors, "Y"]
    ]
    text = ", ".join(f"{letter}={size.size_text}" for letter, size in random.sample(list(sizes.items()), len(sizes)))
    found = parse_structure(f"{','.join(operands[:-1])}->{operands[-1]}; {text}")
    assert found.unordered == Structure.of(given_extents)


def test_a_factor_that_another_one_can_hold_is_absorbed() -> None:
    assert parse_structure("XAB^1 YAB^1 AB^1/2") == parse_structure("dense")
    assert parse_structure("XA^1 AB^1/2 YB^1/2 YAB^1/2") == parse_structure("XB^1 BA^1/2 YA^1/2 YAB^1/2")


def test_a_bond_left_in_one_factor_is_summed_away() -> None:
    # C holds only the bond AC: it goes into A, and the bond that is left in A alone goes too.
    assert parse_structure("XA^1 AB^1/2 YB^1 AC^1/4") == parse_structure("low-rank")


def test_absorbing_one_factor_can_make_another_superfluous() -> None:
    # C's indices (AC, BC) are not in one other factor; with D gone they still are not, with both bonds they are.
    assert parse_structure("XA^1 YA^1 AC^1/2 CD^1/2") == parse_structure("dense")


def test_absorption_equals_the_product_of_the_factors() -> None:
    """Both namings of a factor that carries fewer indices than the other are tested."""
    brute = set()
    for a, b in permutations("AB"):
        brute.add(
            Structure.of(
                {
                    f"X{a}": Extent.fixed(2),
                    f"X{a}{b}": parse_structure("monarch:blocks=2").extent("XA"),
                    f"Y{a}{b}": parse_structure("dense").extent("YA"),
                }
            )
        )
    assert brute == {parse_structure("dense")}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("XA^1/2 YA^1", "the input exponents of 'XA^1/2 YA^1' sum to 1/2: they must sum to 1"),
        ("XA^1 YA^3/4 YB^1/2", "the output exponents of 'XA^1 YA^3/4 YB^1/2' sum to 5/4: they must sum to 1"),
        ("XA^1 YA^1 AB=0", "'0' in 'XA^1 YA^1 AB=0' is not a size: sizes must be at least 1"),
        ("XA^1 YA^1 AB=-3", "'-3' in 'XA^1 YA^1 AB=-3' is not a size"),
        ("XA^2 YA^1", "XA has exponent 2"),
        ("XYA^1 YA^1", "'XYA' in 'XYA^1 YA^1' is carried by both X and Y"),
        ("XA^1 YA^1 AA^1/2", "names a tensor twice"),
        ("XA^1 YA^1 X^1/2", "carried by one tensor"),
        ("XA^1 YA^1 XA^1/2", "XA occurs twice"),
        ("Xα^1 YA^1", "'α' (U+03B1, GREEK SMALL LETTER ALPHA), character 2 of the term 'Xα^1', names no tensor"),
        ("XA^1 YA^1 AB", "the bond AB in 'XA^1 YA^1 AB' has no extent"),
        ("XA=4 XB=4 YA^1", "the input exponents of 'XA=4 XB=4 YA^1' sum to 0"),
        ("XA=2 XB=3 YA YB", "the input exponents of 'XA=2 XB=3 YA YB' sum to 0"),
        ("XA^1e-9", "'1e-9' in 'XA^1e-9' is not an exponent"),
        ("(0.5|0|0.5|0|0.5|0.5|2)", "AB has exponent 2 in '(0.5|0|0.5|0|0.5|0.5|2)'"),
        ("XA=4 XB XC YA", "only one can take the rest of a fixed size"),
        ("XA^1/0 YA^1", "divides by zero"),
        ("XA^1e9 YA^1", "is not an exponent"),
        ("XA^__import__('os') YA^1", "is not an exponent"),
        ("(0.5|0|0.5)", "has 3 numbers: a θ vector has seven"),
        ("(0.5|0|0.5|0|0.5|0.4|0)", "output exponents"),
        ("monrach", "no structure or family is named 'monrach'"),
        ("low-rank:q=4", "'q=4' in 'low-rank:q=4' is not a parameter of low-rank: it takes r=…"),
        ("low-rank:r=0", "sizes must be at least 1"),
        ("block-dense:blocks=4", "does not say r"),
        ("", "has 0 characters"),
        ("dense" * 1000, "has 5000 characters"),
        ("XA^1 " + " ".join(f"{c}Y^1/9" for c in "ABCDEFGHI"), "has 9 factors: at most 8"),
    ],
)
def test_bad_text_is_refused_with_value_rule_and_remedy(text: str, message: str) -> None:
    with pytest.raises(StructureError) as caught:
        parse_structure(text)
    assert message in caught.value.problem
    assert caught.value.remedy
    assert str(caught.value) == f"{caught.value.problem}\ntry: {caught.value.remedy}"


def test_the_nearest_family_is_named() -> None:
    with pytest.raises(StructureError, match="try: monarch, or carrier sets"):
        parse_structure("monrach")


@pytest.mark.parametrize(("text", "size"), [("=0.33*d", 99), ("=1/3*d", 100), ("=0.67*d", 201)])
def test_a_coefficient_is_taken_as_written(text: str, size: int) -> None:
    """Exponents such as 0.33 stand for thirds; sizes do not."""
    assert parse_structure(f"XA^1 YB^1 AB{text}").at(300, 300).size("AB") == size
