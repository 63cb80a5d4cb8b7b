"""How parameters, rank and compute grow with the dimension: ω, ψ and ν.

All exponents are exact and hold for d_in = d_out = d → ∞. Indices of fixed
size do not grow and count as 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations

from einsearch_cli.structures.normal_form import Carriers
from einsearch_cli.structures.structure import Structure
from einsearch_cli.taxonomy.flow import input_side

MAX_ENUMERATED_FACTORS = 4
"""Up to here all cuts are tried: 16 take 0.3 ms, maximum flow 1 ms and 0.3 s to import."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A split of the tensors with X on one side and Y on the other.

    The rank of the matrix is at most the product of the sizes of the indices
    with carriers on both sides.
    """

    input_side: tuple[str, ...]
    output_side: tuple[str, ...]
    indices: tuple[str, ...]
    """Carrier sets that cross the cut."""

    def __str__(self) -> str:
        crossing = ", ".join(self.indices) or "nothing"
        return f"{' '.join(self.input_side)} | {' '.join(self.output_side)} through {crossing}"


@dataclass(frozen=True, slots=True)
class Taxonomy:
    """The three numbers that place a structure (Potapczynski et al. 2024, "A Taxonomy of the Space of Einsum Linear Structures").

    >>> from einsearch_cli.structures import parse_structure
    >>> str(taxonomy_of(parse_structure("low-rank")).psi)
    '1/2'
    """

    omega: Fraction
    """Parameter sharing: FLOPs per parameter grow as d^ω. 0 spends every FLOP on its own parameter."""
    psi: Fraction
    """Rank grows as d^ψ; 1 is full rank."""
    nu: Fraction
    """FLOPs per token grow as d^(1+ν); dense is 1."""
    parameter_exponent: Fraction
    """Parameters grow as d^n."""
    cut: Cut
    """The cut that limits the rank; where several do, the one nearest to the input."""


def taxonomy_of(structure: Structure) -> Taxonomy:
    """ω, ψ and ν by their general definitions, for any number of factors.

    ψ is the smallest cut between X and Y, n the largest factor, 1 + ν the
    largest step of the best order in which the factors meet the activation.

    >>> from einsearch_cli.structures import parse_structure
    >>> wrong_order = taxonomy_of(parse_structure("(1/3|2/3|0|3/4|1/4|0|0)"))
    >>> str(wrong_order.psi), str(wrong_order.nu), str(wrong_order.omega)
    ('7/12', '1/3', '1/4')
    """
    exponents = structure.exponents
    factors = structure.factors
    n = max(sum((e for c, e in exponents.items() if f in c), Fraction(0)) for f in factors)
    largest = smallest_largest_step(exponents, factors)
    cut = minimum_cut(structure)
    psi = min(Fraction(1), cut_exponent(cut, exponents))
    return Taxonomy(omega=largest - n, psi=psi, nu=largest - 1, parameter_exponent=n, cut=cut)


def smallest_largest_step(exponents: Mapping[Carriers, Fraction], factors: tuple[str, ...]) -> Fraction:
    """The largest step of the best order in which the factors meet the activation.

    What a step costs depends on which factors were met before it, not on their
    order, so the best way to each set of factors is found from smaller sets.
    """
    best: dict[frozenset[str], Fraction] = {frozenset(): Fraction(0)}
    for size in range(1, len(factors) + 1):
        for chosen in map(frozenset, combinations(factors, size)):
            best[chosen] = min(
                max(best[chosen - {last}], _step(exponents, chosen, {"Y", last} | (set(factors) - chosen)))
                for last in chosen
            )
    return best[frozenset(factors)]


def _step(exponents: Mapping[Carriers, Fraction], met: frozenset[str], waiting: set[str]) -> Fraction:
    held = met | {"X"}
    return sum((e for carriers, e in exponents.items() if carriers & held and carriers & waiting), Fraction(0))


def minimum_cut(structure: Structure) -> Cut:
    """The cut that limits the rank as d → ∞; where several do, the one nearest to the input.

    By maximum flow, or by trying all cuts where those are few: up to
    `MAX_ENUMERATED_FACTORS` that is faster, and spares importing networkx.

    >>> from einsearch_cli.structures import parse_structure
    >>> str(minimum_cut(parse_structure("low-rank")))
    'X A | B Y through AB'
    """
    exponents = structure.exponents
    if len(structure.factors) <= MAX_ENUMERATED_FACTORS:
        return min(cuts(structure), key=lambda cut: cut_exponent(cut, exponents))
    return cut_with(structure, input_side(exponents))


def cut_with(structure: Structure, side: frozenset[str]) -> Cut:
    """The cut with these tensors on the input's side."""
    others = {"Y", *structure.factors} - side
    crossing = tuple(carriers for carriers, _ in structure.indices if side & set(carriers) and others & set(carriers))
    inside = tuple(f for f in structure.factors if f in side)
    return Cut(("X", *inside), (*(f for f in structure.factors if f not in side), "Y"), crossing)


def cuts(structure: Structure) -> Iterator[Cut]:
    """All 2^N splits of the factors, from X alone to X with every factor."""
    for size in range(len(structure.factors) + 1):
        for inside in combinations(structure.factors, size):
            yield cut_with(structure, frozenset({"X", *inside}))


def cut_exponent(cut: Cut, exponents: Mapping[Carriers, Fraction]) -> Fraction:
    """The exponent of the product of the sizes that cross the cut."""
    return sum((exponents[frozenset(carriers)] for carriers in cut.indices), Fraction(0))
